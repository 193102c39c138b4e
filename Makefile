# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
#
# A short front door to Meson and Ninja. `sudo make demo` and `sudo make check` also install what they need.

BUILD   ?= build
PREFIX  ?= /usr
DESTDIR ?=
# Debian's tools, whatever else is first in PATH.
export PATH := /usr/bin:$(PATH)

.PHONY: all guest-kernel check check-vm demo bench install deb clean deps deps-run

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@meson setup $(BUILD) --prefix=$(PREFIX)

# The kernel of microVMs, from Debian's source of Linux 6.1: some seven minutes on two idle cores, nothing when it is there.
guest-kernel:
	@packaging/dependencies run kernel
	@guest/build-kernel $(BUILD)

# Installs Debian's packages that are missing: those to build and run, and for `check` and `bench` those of the tests.
deps-run:
	@packaging/dependencies run
deps:
	@packaging/dependencies run test kernel vm

demo: deps-run
	@$(MAKE) --no-print-directory all
	@tests/demo/demo $(BUILD)

check: deps
	@tests/check

# The part of `check` that runs on an emulated Debian machine with systemd, its own kernel, KVM and LVM.
check-vm: deps
	@$(MAKE) --no-print-directory all
	@tests/check kernel package vm

bench: deps
	@$(MAKE) --no-print-directory all
	@tests/bench/bench $(BUILD)

install: all
	@DESTDIR=$(DESTDIR) meson install -C $(BUILD) --no-rebuild

deb: deps
	@$(MAKE) --no-print-directory all
	@packaging/make-deb $(BUILD)

clean:
	@rm -rf $(BUILD) build-*
