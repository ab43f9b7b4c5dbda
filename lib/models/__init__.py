"""The networks, and what is done to them before they are explained."""
