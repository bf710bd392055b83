"""Thin Prefect tasks, one file per outside tool or stage."""
