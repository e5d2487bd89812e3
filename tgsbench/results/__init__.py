"""What is made of stored runs: results, rows, comparisons, forecasts, exports."""
