// UNIX listeners bound to a path, stream and seqpacket, keep the path and its mode and answer there.
#include "listening.h"
#include <sys/stat.h>

static int listener(int type, const char *path, struct sockaddr_un *address)
{
	int fd = MUST(socket(AF_UNIX, type, 0));

	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	CHECK(strlen(path) < sizeof(address->sun_path));
	strcpy(address->sun_path, path);
	MUST(bind(fd, (struct sockaddr *)address, sizeof(*address)));
	MUST(chmod(path, 0750));
	MUST(listen(fd, 5));
	return fd;
}

int main(int argc, char **argv)
{
	struct sockaddr_un stream_address, packet_address;
	struct stat status;
	int stream, packet;

	check_init(argc, argv);
	stream = listener(SOCK_STREAM, in_dir("s"), &stream_address);
	packet = listener(SOCK_SEQPACKET, in_dir("p"), &packet_address);
	option_set(stream, SOL_SOCKET, SO_PASSCRED, 1);
	check_ready_and_wait();
	EQUAL(option_of(stream, SOL_SOCKET, SO_ACCEPTCONN), 1);
	EQUAL(option_of(stream, SOL_SOCKET, SO_PASSCRED), 1);
	EQUAL(option_of(packet, SOL_SOCKET, SO_PASSCRED), 0);
	MUST(stat(in_dir("s"), &status));
	EQUAL(status.st_mode, S_IFSOCK | 0750);
	check_answers(stream, SOCK_STREAM, &stream_address, sizeof(stream_address));
	check_answers(packet, SOCK_SEQPACKET, &packet_address, sizeof(packet_address));
	return check_pass();
}
