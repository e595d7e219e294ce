"""Programs: what each has had, what is learned of its kind."""
