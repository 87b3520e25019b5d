# The two commands that matter: `make run` brings the demo up, `make test` runs everything there is to check.
# Both install what is missing on a Debian machine.

CARGO ?= cargo
PREFIX ?= /usr
DESTDIR ?=
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Needed to build (cmake: for pingora's zlib-ng) and to test (real servers and clients).
BUILD_TOOLS := cmake:cmake cc:build-essential
COMPARE_TOOLS := haproxy:haproxy varnishd:varnish traffic_server:trafficserver h2load:nghttp2-client taskset:util-linux
TEST_TOOLS := curl:curl nginx:nginx-light haproxy:haproxy wrk:wrk openssl:openssl systemd-analyze:systemd \
  mmdebstrap:mmdebstrap systemd-nspawn:systemd-container lintian:lintian man:man-db zsh:zsh fish:fish promtool:prometheus varnishd:varnish caddy:caddy \
  chromium:chromium chromedriver:chromium-driver

.PHONY: run build release test check unit fuzz-smoke deploy-test guides-test load-test bench-hit bench-micro bench-instructions bench-scale bench-compare bench-storage bench-memory crash-test certs install install-files deb container tarball fmt clean build-tools rust man-tools count-tools test-tools

run: build-tools
	$(CARGO) run --release -- demo

build: build-tools
	$(CARGO) build

release: build-tools
	$(CARGO) build --release

test: build-tools test-tools check deploy-test guides-test unit

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --quiet --no-deps --document-private-items
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --offline check licenses bans sources && \
	  if $(CARGO) deny fetch db >/dev/null 2>&1; then $(CARGO) deny --offline check advisories; \
	  else echo "the advisory database cannot be had: advisories are not checked"; fi; \
	else echo "cargo-deny is not installed: licences are checked by the test suite, advisories are not"; fi
	@if command -v typos >/dev/null; then typos; else echo "typos is not installed: spelling is not checked"; fi

# Many tests wait for what the node does by the clock, so there are more at one time than cores.
unit:
	@if command -v cargo-nextest >/dev/null; then $(CARGO) nextest run --test-threads $$(($$(nproc) * 2)); \
	else $(CARGO) test; fi

# What comes from the network or from files, made up by chance: ten seconds for each parser (FUZZ_SECONDS, FUZZ_SEED).
# `make unit` runs it, too. With a nightly compiler and cargo-fuzz: cargo +nightly fuzz run h1_request_head.
fuzz-smoke: build-tools
	$(CARGO) test --test fuzz -- --nocapture

# The package in a Debian machine of its own, under systemd: two minutes, and half a one more the first time.
deploy-test: build man-tools
	tests/deploy/package.sh target/debug/seawall
	tests/deploy/demo.py target/debug/seawall
	tests/deploy/run.sh target/debug/seawall

# The examples of the moving guides, with the servers that they are about and with Seawall: a minute.
GUIDES := docs/from-nginx.md docs/from-haproxy.md docs/from-varnish.md docs/from-caddy.md
guides-test: build
	/usr/bin/python3 tests/guides/run.py --seawall target/debug/seawall $(GUIDES)

# Reloads and a killed origin under wrk's load: takes half a minute and prints what it saw.
load-test: release test-tools
	tests/load/run.sh

# CPU time per memory hit, beside nginx: half a minute.
bench-hit: release test-tools
	@$(call need,$(COMPARE_TOOLS))
	benches/compare/compare.py --only hit-1k --peers seawall nginx floor

# The steps of a request, each by itself: times, and instructions beside those on record (valgrind: whatever the load).
# CHECK=--check fails where a step takes 5 % more; CHECK=--record puts the new ones on record.
bench-micro: build-tools
	$(CARGO) bench --bench micro
bench-instructions: build-tools count-tools
	benches/instructions.sh $(CHECK)

# What a hit costs as objects, sites and connections grow in number, with a plot: some ten minutes, and 4 GB of memory.
bench-scale: release test-tools
	@$(call need,$(COMPARE_TOOLS))
	benches/compare/scale.py --write docs/performance.md

# The node beside its peers and the kernel's floor, every case: some 50 minutes. benches/compare/compare.py --help for less.
bench-compare: release test-tools
	@$(call need,$(COMPARE_TOOLS))
	benches/compare/compare.py --write docs/performance.md

# Resident memory through slices and under a churn of a million objects: some minutes, and 11 GB in SEAWALL_BENCH_DIR.
bench-memory: release test-tools
	benches/memory.sh

# A million objects on disk: takes some minutes and 17 GB where SEAWALL_BENCH_DIR is.
bench-storage: build-tools
	$(CARGO) bench --bench storage

# The node killed 200 times in the middle of writes and purges: takes some minutes.
crash-test: build-tools
	SEAWALL_CRASHES=200 $(CARGO) test --test suite crashes

certs:
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=shop.example.com \
	  -addext "subjectAltName=DNS:shop.example.com,DNS:*.shop.example.com" \
	  -keyout certs/shop.key -out certs/shop.pem

# Binary, units, user, configuration, manual. What is there of the configuration stays.
install: release man-tools
	@$(MAKE) -s install-files BINARY=target/release/seawall
	@[ -n "$(DESTDIR)" ] || { systemd-sysusers; systemd-tmpfiles --create; systemctl daemon-reload || true; }

BINARY ?= target/release/seawall
DOC := $(DESTDIR)$(PREFIX)/share/doc/seawall
install-files:
	install -D -m 755 -s $(BINARY) $(DESTDIR)$(PREFIX)/bin/seawall
	for unit in seawall.service seawall.socket; do \
	  install -D -m 644 systemd/$$unit $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit; done
	sed -i 's#/usr/bin/seawall#$(PREFIX)/bin/seawall#' $(DESTDIR)$(PREFIX)/lib/systemd/system/seawall.service
	install -D -m 644 systemd/seawall.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/seawall.conf
	install -D -m 644 systemd/seawall.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/seawall.conf
	install -D -m 644 systemd/seawall.logrotate $(DESTDIR)/etc/logrotate.d/seawall
	install -d -m 755 $(DESTDIR)/etc/seawall/sites.d
	[ -e $(DESTDIR)/etc/seawall/seawall.toml ] || { \
	  install -m 644 conf/seawall.toml $(DESTDIR)/etc/seawall/seawall.toml; \
	  install -m 644 conf/default-site.toml $(DESTDIR)/etc/seawall/sites.d/default.toml; }
	install -D -m 644 -t $(DOC) *.md LICENSE-*
	install -D -m 644 -t $(DOC)/docs docs/*.md docs/*.svg
	install -D -m 644 -t $(DOC)/docs/decisions docs/decisions/*.md
	install -D -m 644 -t $(DOC)/conf conf/*.toml
	install -D -m 644 -t $(DOC)/conf/website conf/website/*
	@made=$$(mktemp -d) && systemd/manual.sh $(BINARY) $$made && \
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 $$made/*.1 && \
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man5 $$made/*.5 && \
	install -D -m 644 $$made/seawall.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/seawall && \
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions $$made/_seawall && \
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d $$made/seawall.fish && rm -r $$made

deb: release man-tools
	@systemd/debian/build target/release/seawall target/debian

# An image of a container, by podman or docker.
CONTAINER := $(shell command -v podman || command -v docker)
container: release
	@[ -n "$(CONTAINER)" ] || { echo "podman or docker is needed: apt-get install podman"; exit 1; }
	install -m 755 -s target/release/seawall systemd/container/seawall
	$(CONTAINER) build -t seawall systemd/container; status=$$?; rm -f systemd/container/seawall; exit $$status

# The program with its units, manual and licences, to be unpacked below / or anywhere else.
tarball: release man-tools
	@version=$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1); name=seawall-$$version-$$(uname -m); \
	rm -rf target/$$name && $(MAKE) -s install-files BINARY=target/release/seawall DESTDIR=$$PWD/target/$$name && \
	tar -C target --owner=0 --group=0 -czf target/$$name.tar.gz $$name && rm -rf target/$$name && echo target/$$name.tar.gz

fmt:
	$(CARGO) fmt

clean:
	$(CARGO) clean

build-tools: rust
	@$(call need,$(BUILD_TOOLS))

rust:
	@systemd/rust.sh $(firstword $(CARGO))

man-tools:
	@$(call need,lowdown:lowdown dpkg-shlibdeps:dpkg-dev strip:binutils)

count-tools:
	@$(call need,valgrind:valgrind)

test-tools:
	@$(call need,$(TEST_TOOLS))
	@missing=""; /usr/bin/python3 -c "import grpc" 2>/dev/null || missing="$$missing python3-grpcio"; \
	ls /usr/lib/*/varnish/vmods/libvmod_xkey.so >/dev/null 2>&1 || missing="$$missing varnish-modules"; \
	$(install-missing)

# $(call need,command:package ...): installs the packages of the commands that are not there.
need = missing=""; for pair in $(1); do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v $${pair%%:*} >/dev/null || missing="$$missing $${pair\#\#*:}"; done; \
	$(install-missing)
install-missing = if [ -n "$$missing" ]; then echo "installing$$missing"; \
	  $(SUDO) apt-get update -q >/dev/null && \
	  DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -q -y --no-install-recommends $$missing >/dev/null; fi
