/* Text of a /proc file taken before the move, to be compared with the same file after it. */
#ifndef SNAPSHOT_H
#define SNAPSHOT_H

#include "check.h"

struct snapshot {
	size_t size_bytes;
	char text[32768];
};

static inline struct snapshot *snapshot_take(const char *path)
{
	struct snapshot *taken = calloc(1, sizeof(*taken));
	ssize_t got;
	int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));

	while ((got = MUST(read(fd, taken->text + taken->size_bytes, sizeof(taken->text) - 1 - taken->size_bytes))) > 0)
		taken->size_bytes += got;
	MUST(close(fd));
	return taken;
}

static inline void snapshot_check_same(const struct snapshot *before, const char *path)
{
	struct snapshot *after = snapshot_take(path);

	EQUAL(after->size_bytes, before->size_bytes);
	if (memcmp(after->text, before->text, before->size_bytes))
		check_fail("%s is \"%.300s\", was \"%.300s\"", path, after->text, before->text);
	free(after);
}

/* The line that begins with `key`, its length without the newline in `length`. */
static inline const char *snapshot_line(const struct snapshot *taken, const char *key, int *length)
{
	for (const char *line = taken->text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, strlen(key)) == 0) {
			*length = (int)strcspn(line, "\n");
			return line;
		}
	}
	check_fail("no line \"%s\"", key);
}

static inline void snapshot_check_line(const struct snapshot *before, const char *path, const char *key)
{
	struct snapshot *after = snapshot_take(path);
	int length_before, length_after;
	const char *was = snapshot_line(before, key, &length_before);
	const char *is = snapshot_line(after, key, &length_after);

	if (length_before != length_after || memcmp(was, is, length_before))
		check_fail("%s: \"%.*s\", was \"%.*s\"", path, length_after, is, length_before, was);
	free(after);
}

#endif
