// Connections to a listener in the same process keep their names and what waits in them; two wait for accept in order.
#include "unix.h"
#include <sys/stat.h>

struct place {
	struct sockaddr_un address, client_address;
	socklen_t size, client_size;
	int type, listener, first, first_server, named, named_server, waiting, waiting_too, orphan;
};

static void build(struct place *place, const char *client_path)
{
	place->listener = unix_bound(place->type, &place->address, place->size);
	MUST(listen(place->listener, 5));
	place->first = unix_connected(place->type, &place->address, place->size);
	place->first_server = MUST(accept4(place->listener, NULL, NULL, SOCK_CLOEXEC));
	place->client_size = unix_path(&place->client_address, client_path);
	place->named = unix_bound(place->type, &place->client_address, place->client_size);
	MUST(connect(place->named, (struct sockaddr *)&place->address, place->size));
	place->named_server = MUST(accept(place->listener, NULL, NULL));
	place->orphan = unix_connected(place->type, &place->address, place->size);
	MUST(close(MUST(accept(place->listener, NULL, NULL))));
	place->waiting = unix_connected(place->type, &place->address, place->size);
	place->waiting_too = unix_connected(place->type, &place->address, place->size);
	unix_send(place->first, "to the server");
	unix_send(place->named_server, "to the client");
}

static void check(struct place *place)
{
	int server;

	unix_expect(place->first_server, "to the server");
	unix_expect(place->named, "to the client");
	unix_check_name(place->first_server, &place->address, place->size);
	unix_check_peer_name(place->first, &place->address, place->size);
	unix_check_name(place->named, &place->client_address, place->client_size);
	unix_check_peer_name(place->named_server, &place->client_address, place->client_size);
	unix_check_peer_name(place->orphan, &place->address, place->size);
	unix_expect_end(place->orphan);
	server = MUST(accept(place->listener, NULL, NULL));
	unix_send(place->waiting, "waited");
	unix_expect(server, "waited");
	server = MUST(accept(place->listener, NULL, NULL));
	unix_send(place->waiting_too, "waited too");
	unix_expect(server, "waited too");
	unix_connected(place->type, &place->address, place->size);
	MUST(accept(place->listener, NULL, NULL));
}

int main(int argc, char **argv)
{
	struct place path = {.type = SOCK_STREAM}, abstract = {.type = SOCK_SEQPACKET}, removed = {.type = SOCK_STREAM};
	struct stat status;

	check_init(argc, argv);
	path.size = unix_path(&path.address, in_dir("s"));
	build(&path, in_dir("c"));
	MUST(chmod(in_dir("s"), 0750));
	abstract.size = unix_abstract(&abstract.address, "a");
	build(&abstract, in_dir("d"));
	removed.size = unix_path(&removed.address, in_dir("r"));
	build(&removed, in_dir("e"));
	MUST(unlink(in_dir("e")));
	check_ready_and_wait();
	check(&path);
	MUST(stat(in_dir("s"), &status));
	EQUAL(status.st_mode, S_IFSOCK | 0750);
	check(&abstract);
	check(&removed);
	EQUAL(access(in_dir("e"), F_OK), -1);
	return check_pass();
}
