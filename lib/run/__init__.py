"""Running the study: which notebooks are due and why, their execution, their record, and its verification."""
