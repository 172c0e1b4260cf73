"""What people see: progress lines, the summary table, preview and sample pictures."""
