#pragma once
#include <malloc.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/timex.h>

// glibc has it since 2.34, but shows it to GNU C only, which the headers that Swift imports are not compiled as.
int posix_spawn_file_actions_addclosefrom_np(posix_spawn_file_actions_t *actions, int from);

// GNU C only, too.
int accept4(int socket, struct sockaddr *address, socklen_t *length, int flags);

// Swift can't call a variadic function.
static inline int prctl_set(int option, unsigned long argument) { return prctl(option, argument, 0, 0, 0); }
