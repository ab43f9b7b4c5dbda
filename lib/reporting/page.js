// Filters, sorts and opens the claims. Without it the page shows all of them, in the registry's order.
(() => {
  const form = document.getElementById("filters");
  const list = document.getElementById("claims");
  const count = document.getElementById("count");
  const unfold = document.getElementById("unfold");
  const items = [...list.children];
  const text = new Map(items.map((item) => [item, item.textContent.toLowerCase()]));
  const pairs = new Map(items.map((item) => [item, item.dataset.found.split(";").map((pair) => pair.split("|"))]));
  const orders = {
    rank: (a, b) => a.dataset.rank - b.dataset.rank,
    minutes: (a, b) => a.dataset.minutes - b.dataset.minutes,
    id: (a, b) => a.id.localeCompare(b.id, "en", { numeric: true }),
  };

  const fits = (item, { words, paper, whose, verdict, data }) =>
    (!paper || item.dataset.paper === paper) &&
    (!whose || item.dataset.whose === whose) &&
    pairs.get(item).some((pair) => (!data || pair[0] === data) && (!verdict || pair[1] === verdict)) &&
    words.toLowerCase().split(/\s+/).every((word) => text.get(item).includes(word));

  const show = () => {
    const wanted = Object.fromEntries(new FormData(form));
    items.forEach((item) => { item.hidden = !fits(item, wanted); });
    const order = orders[wanted.sort];
    list.append(...(order ? [...items].sort(order) : items));
    const shown = items.filter((item) => !item.hidden).length;
    count.textContent = shown === items.length ? `${shown} claims` : `${shown} of ${items.length} claims`;
  };

  const press = (open) => {
    unfold.dataset.open = open;
    unfold.textContent = open ? "Close all" : "Open all";
    items.filter((item) => !item.hidden).forEach((item) => { item.firstElementChild.open = open; });
  };

  // the claim that an address names, "report.html#E9", is opened, whatever the filters say
  const follow = () => {
    const item = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!items.includes(item)) return;
    if (item.hidden) { form.reset(); show(); }
    item.firstElementChild.open = true;
    item.scrollIntoView();
  };

  // a claim that is opened by itself shows its figures small; they are in the page once, further below
  list.addEventListener("toggle", (event) => {
    if (unfold.dataset.open === "true") return;
    event.target.querySelectorAll(".figures a:not(:has(img))").forEach((link) => {
      const figure = document.getElementById(link.hash.slice(1)).querySelector("img");
      const small = figure.cloneNode();
      small.alt = "";
      link.prepend(small);
    });
  }, true);
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
  unfold.addEventListener("click", () => press(unfold.dataset.open !== "true"));
  window.addEventListener("hashchange", follow);
  document.documentElement.classList.add("js");
  show();
  follow();
})();
