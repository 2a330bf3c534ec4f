// A UNIX listener with an abstract name, zero bytes in it, keeps the name to the byte and answers there.
#include "listening.h"

int main(int argc, char **argv)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct sockaddr_storage after;
	socklen_t size;
	int fd, length;

	check_init(argc, argv);
	length = snprintf(address.sun_path + 1, 64, "check-%d-x", getpid());
	address.sun_path[length] = '\0'; /* the x: a zero byte inside the name is an ordinary one */
	size = offsetof(struct sockaddr_un, sun_path) + 1 + length + 2;
	fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
	MUST(bind(fd, (struct sockaddr *)&address, size));
	MUST(listen(fd, 5));
	check_ready_and_wait();
	EQUAL(address_of(fd, &after), size);
	CHECK(memcmp(&after, &address, size) == 0);
	check_answers(fd, SOCK_STREAM, &address, size);
	return check_pass();
}
