#pragma once
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <sys/timex.h>

// Swift can't call a variadic function.
static inline int prctl_set(int option, unsigned long argument) { return prctl(option, argument, 0, 0, 0); }
