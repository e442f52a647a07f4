"""Ways to other libraries. None of them is imported before one of these modules is."""
