/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/microvm/kernel.h"

#include <elf.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#define PROGRAM_HEADERS_MAX 64
#define NOTES_MAX (64u << 10)

#define PVH_NOTE_NAME "Xen"
#define PVH_NOTE_TYPE 18 /* XEN_ELFNOTE_PHYS32_ENTRY */

/* Linux: Documentation/x86/boot.rst, The Real-Mode Kernel Header. */
#define BOOT_FLAG_OFFSET 0x1fe
#define BOOT_FLAG 0xaa55
#define MAGIC_OFFSET 0x202
#define MAGIC "HdrS"
#define VERSION_OFFSET 0x206
#define VERSION_MIN 0x0206 /* a command line of more than 255 bytes */
#define LOADFLAGS_OFFSET 0x211
#define LOADFLAGS_LOADED_HIGH 0x1
#define BOOT_HEADER_SIZE 0x212

/* The bytes are there, or it is not what its header says. */
static bool read_at(int fd, void *to, size_t len, uint64_t offset)
{
	return offset <= INT64_MAX && pread(fd, to, len, (off_t)offset) == (ssize_t)len;
}

static size_t align_note(size_t n)
{
	return (n + 3) & ~(size_t)3;
}

static bool notes_have_entry(const uint8_t *notes, size_t len)
{
	Elf64_Nhdr note;

	while (len >= sizeof note) {
		size_t name, whole;

		memcpy(&note, notes, sizeof note);
		if (note.n_namesz > len || note.n_descsz > len)
			return false;
		name = align_note(note.n_namesz);
		whole = sizeof note + name + align_note(note.n_descsz);
		if (whole > len)
			return false;
		if (note.n_type == PVH_NOTE_TYPE && note.n_namesz == sizeof PVH_NOTE_NAME &&
		    !memcmp(notes + sizeof note, PVH_NOTE_NAME, sizeof PVH_NOTE_NAME))
			return true;
		notes += whole;
		len -= whole;
	}
	return false;
}

static bool segment_has_entry(int fd, const Elf64_Phdr *header)
{
	_cleanup_free_ uint8_t *notes = NULL;

	if (header->p_type != PT_NOTE || header->p_filesz > NOTES_MAX)
		return false;
	notes = malloc(header->p_filesz + 1);
	return notes && read_at(fd, notes, header->p_filesz, header->p_offset) && notes_have_entry(notes, header->p_filesz);
}

static bool elf_has_entry(int fd, const Elf64_Ehdr *elf)
{
	if (elf->e_phentsize != sizeof(Elf64_Phdr) || elf->e_phnum > PROGRAM_HEADERS_MAX)
		return false;
	for (size_t i = 0; i < elf->e_phnum; i++) {
		Elf64_Phdr header;

		if (elf->e_phoff > INT64_MAX || !read_at(fd, &header, sizeof header, elf->e_phoff + i * sizeof header))
			return false;
		if (segment_has_entry(fd, &header))
			return true;
	}
	return false;
}

static int check_elf(int fd, const char *path, struct error *err)
{
	Elf64_Ehdr elf;

	if (!read_at(fd, &elf, sizeof elf, 0) || elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_machine != EM_X86_64)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "%s is a program or kernel for another processor; a microVM boots kernels for x86-64", path);
	if (!elf_has_entry(fd, &elf))
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "%s is an ELF file without the entry that a microVM needs; build the kernel with "
				 "CONFIG_PVH=y, or take its bzImage", path);
	return 0;
}

static uint16_t le16_at(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static bool is_bzimage(int fd)
{
	uint8_t header[BOOT_HEADER_SIZE];

	return read_at(fd, header, sizeof header, 0) && le16_at(header + BOOT_FLAG_OFFSET) == BOOT_FLAG &&
	       !memcmp(header + MAGIC_OFFSET, MAGIC, strlen(MAGIC)) && le16_at(header + VERSION_OFFSET) >= VERSION_MIN &&
	       header[LOADFLAGS_OFFSET] & LOADFLAGS_LOADED_HIGH;
}

static bool is_compressed(const uint8_t *magic)
{
	static const char *const magics[] = { "\x1f\x8b", "\x28\xb5\x2f\xfd", "\3757zX", "BZh" };

	for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++)
		if (!memcmp(magic, magics[i], strlen(magics[i])))
			return true;
	return false;
}

int kernel_check(const char *path, enum kernel_format *ret, struct error *err)
{
	/* O_NONBLOCK: it may be a FIFO. */
	_cleanup_close_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	uint8_t magic[SELFMAG] = { 0 };
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "cannot open the kernel %s", path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, ERR_FAILED_PRECONDITION, "the kernel %s is not a file", path);
	(void)read_at(fd, magic, sizeof magic, 0);
	if (!memcmp(magic, ELFMAG, SELFMAG)) {
		if (check_elf(fd, path, err) < 0)
			return -1;
		*ret = KERNEL_ELF;
		return 0;
	}
	if (is_bzimage(fd)) {
		*ret = KERNEL_BZIMAGE;
		return 0;
	}
	if (is_compressed(magic))
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "%s is compressed; a microVM boots a bzImage or a vmlinux that is not", path);
	return error_set(err, ERR_FAILED_PRECONDITION,
			 "%s is no kernel that a microVM can boot: neither a bzImage nor an ELF file (vmlinux)", path);
}
