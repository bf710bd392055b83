"""Plain implementations, such as a competent engineer writes first, to measure the project against."""
