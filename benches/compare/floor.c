/* The limit of what a server on this kernel can do: one thread, one epoll, and for whatever one read brings, the same
 * bytes in one write. Nothing is parsed, logged or counted. It does not know pipelining: one read is one request.
 *
 * floor PORT FILE keep|close: FILE is the whole response, head included; "close" ends the connection after it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FD = 65536, READ_SIZE = 16384, EVENTS = 512 };

static char *response;
static size_t length;
static size_t sent[MAX_FD]; /* of a response whose rest waits until the client takes it; 0: nothing waits */
static int epoll, close_after;

static void watch(int fd, int operation, unsigned events) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  epoll_ctl(epoll, operation, fd, &event);
}

static void answer(int fd) {
  int waited = sent[fd] > 0;
  ssize_t n = send(fd, response + sent[fd], length - sent[fd], MSG_NOSIGNAL);
  if (n > 0) sent[fd] += n;
  if (sent[fd] == length) {
    sent[fd] = 0;
    if (close_after) close(fd);
    else if (waited) watch(fd, EPOLL_CTL_MOD, EPOLLIN);
  } else if (!waited) {
    watch(fd, EPOLL_CTL_MOD, EPOLLOUT);
  }
}

static void serve(int fd, unsigned events) {
  char request[READ_SIZE];
  if (events & EPOLLOUT) {
    if (events & (EPOLLERR | EPOLLHUP)) { sent[fd] = 0; close(fd); } else answer(fd);
  } else if (read(fd, request, sizeof request) > 0) {
    answer(fd);
  } else {
    close(fd);
  }
}

int main(int argc, char **argv) {
  struct stat info;
  FILE *file = argc == 4 ? fopen(argv[2], "rb") : NULL;
  if (!file || fstat(fileno(file), &info)) return fprintf(stderr, "floor PORT FILE keep|close\n"), 2;
  length = info.st_size;
  response = malloc(length);
  if (!response || fread(response, 1, length, file) != length) return perror(argv[2]), 1;
  close_after = !strcmp(argv[3], "close");

  int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 4096)) return perror("listen"), 1;
  epoll = epoll_create1(0);
  watch(listener, EPOLL_CTL_ADD, EPOLLIN);

  for (;;) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(epoll, events, EVENTS, -1);
    for (int i = 0; i < n; i++) {
      if (events[i].data.fd != listener) { serve(events[i].data.fd, events[i].events); continue; }
      int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
      if (fd >= MAX_FD) close(fd);
      else if (fd >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        watch(fd, EPOLL_CTL_ADD, EPOLLIN);
      }
    }
  }
}
