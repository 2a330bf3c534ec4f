/* Pages between processes and pages files. cffi reads this text too: no preprocessor tricks. */
#ifndef MG_PAGES_H
#define MG_PAGES_H

/* CRC-32C of each of `count` pages. */
void mg_page_crcs(const unsigned char *memory, int count, unsigned int *crcs);

/*
 * Write `count` pages to `fd` at `offset`, leaving holes where they are all
 * zero; crcs[] as above. Returns 0 or -errno.
 */
int mg_store_pages(int fd, unsigned long long offset, const unsigned char *memory, int count, unsigned int *crcs);

#define MG_BAD_CHECKSUM 84 /* EILSEQ */

/* Pages of a pages file on their way into a stopped process. */
struct mg_fill {
	int pages_fd;
	int mem_fd;  /* /proc/PID/mem */
	int uffd;    /* registered for missing pages there, nothing is in them yet; -1: write to mem_fd */
	int punched; /* pages are only checked; one that is all zero passes: nobody needs it any more */
	int shared;  /* a page that is there already and the same stays the one that others have too */
	unsigned long long offset;
	unsigned long long address;
	unsigned long long size;
	const unsigned int *crcs; /* of each page, or NULL: not checked */
};

/*
 * Bytes filled. Fewer than asked means *error at that place: MG_BAD_CHECKSUM
 * the next page fails its checksum, ENODATA the file ends there, else an errno
 * of the write. With mem_fd -1 pages are checked only.
 */
long long mg_fill_pages(const struct mg_fill *fill, int *error);

/*
 * Which of `count` pages differ: their indices to differing[], the number
 * returned.
 */
int mg_differing_pages(const unsigned char *one, const unsigned char *other, int count, int *differing);

#endif
