"""What a coordinator knows of many hosts: the store, the way to them, and who works on which migration."""
