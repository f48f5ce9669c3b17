"""What the comparisons with neural-tangents share: processes to measure, and rounds in which they take turns."""
