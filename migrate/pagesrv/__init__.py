"""The page stream: frames on the wire, sender beside the process, receiver beside the skeletons. Synchronous."""
