/* SPDX-License-Identifier: Apache-2.0 */
#include "error.h"

#include <stdarg.h>

/* Called by kernels that TVM's C code generator emits; the only runtime symbol they need. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t num_parts);
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);

static char text[TINY_RPC_ERROR_TEXT];
static size_t used;

const char *tiny_rpc_error_text(void) { return text; }

static void append_char(char c) {
  if (used + 1 < sizeof(text)) text[used++] = c;
  text[used] = 0;
}

static void append(const char *s) {
  while (s != NULL && *s != 0) append_char(*s++);
}

static void append_unsigned(uint32_t value) {
  char digits[10];
  int count = 0;
  do {
    digits[count++] = (char)('0' + value % 10u);
    value /= 10u;
  } while (value != 0);
  while (count > 0) append_char(digits[--count]);
}

static void append_signed(int32_t value) {
  if (value < 0) append_char('-');
  append_unsigned(value < 0 ? 0u - (uint32_t)value : (uint32_t)value);
}

static void append_kind(char kind) {
  static const char kinds[] = "Value\0Type\0Protocol\0Memory\0Runtime\0Attribute"; /* in the order of error.h */
  const char *name = kinds;
  while (--kind > 0) {
    while (*name++ != 0) {
    }
  }
  append(name);
  append("Error: ");
}

int32_t tiny_rpc_fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  used = 0;
  text[0] = 0;
  if (*format > 0 && *format <= 6) append_kind(*format++);
  for (; *format != 0; ++format) {
    if (*format != '%') {
      append_char(*format);
      continue;
    }
    switch (*++format) {
      case 's': append(va_arg(arguments, const char *)); break;
      case 'd': append_signed(va_arg(arguments, int32_t)); break;
      case 'u': append_unsigned(va_arg(arguments, uint32_t)); break;
      case 0: --format; break;
      default: append_char(*format);
    }
  }
  va_end(arguments);
  return -1;
}

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t num_parts) {
  (void)tiny_rpc_fail("%s: ", kind);
  for (int32_t i = 0; i < num_parts; ++i) append(parts[i]);
}

void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) { (void)tiny_rpc_fail("%s: %s", kind, message); }
