"""Memory of a running process: which pages it has and wrote, and their contents: ranges, present, pages, dirty."""
