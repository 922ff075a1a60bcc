/* SPDX-License-Identifier: Apache-2.0 */
/* A host process: frames on standard input and output, crashes as signals on a stack of their own. */
#define _GNU_SOURCE 1 /* names of the registers in ucontext_t */

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "fault.h"
#include "port.h"

static char handler_stack[65536];

static uint64_t context_pc(const ucontext_t *context) {
#if defined(__x86_64__)
  return (uint64_t)context->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
  return (uint64_t)context->uc_mcontext.pc;
#else
  (void)context;
  return 0;
#endif
}

static uint64_t context_sp(const ucontext_t *context) {
#if defined(__x86_64__)
  return (uint64_t)context->uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
  return (uint64_t)context->uc_mcontext.sp;
#else
  (void)context;
  return 0;
#endif
}

/* SIGUSR1 is the host asking a hung process where it is. */
static void on_signal(int number, siginfo_t *info, void *context) {
  struct fault_record record;
  memset(&record, 0, sizeof record);
  record.kind = FAULT_SIGNAL;
  record.layer = tiny_current_layer;
  record.number = (uint32_t)number;
  record.pc = context_pc((const ucontext_t *)context);
  record.sp = context_sp((const ucontext_t *)context);
  record.flags = record.pc != 0 ? FAULT_PC_VALID : 0u;
  if (number == SIGSEGV || number == SIGBUS) {
    record.address = (uint64_t)(uintptr_t)info->si_addr;
    record.flags |= FAULT_ADDRESS_VALID;
    /* A page fault within 64 KB of the stack pointer is the stack's guard page. */
    if (record.address - record.sp + 65536u < 131072u) {
      record.flags |= FAULT_STACK_OVERFLOW;
    }
  }
  fault_report(&record);
}

int port_open(void) {
  static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGUSR1};
  stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  signal(SIGPIPE, SIG_IGN);
  if (sigaltstack(&stack, NULL) != 0) {
    return -1;
  }
  for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
    if (sigaction(signals[i], &action, NULL) != 0) {
      return -1;
    }
  }
  return 0;
}

int port_read(void *destination, size_t n) {
  char *at = (char *)destination;
  while (n > 0) {
    const ssize_t got = read(STDIN_FILENO, at, n);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return -1;
    }
    at += got;
    n -= (size_t)got;
  }
  return 0;
}

int port_write(const void *source, size_t n) {
  const char *at = (const char *)source;
  while (n > 0) {
    const ssize_t put = write(STDOUT_FILENO, at, n);
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put <= 0) {
      return -1;
    }
    at += put;
    n -= (size_t)put;
  }
  return 0;
}

void port_exit(int code) { _exit(code); }

uint32_t port_stack_size(void) { return 0; }
uint32_t port_stack_used(void) { return 0; }
int port_stack_overflowed(void) { return 0; } /* the guard page raises SIGSEGV */
