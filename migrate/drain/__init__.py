"""Emptying hosts: windows, placement, and the schedule that follows them. All pure; migrate/fleet acts."""
