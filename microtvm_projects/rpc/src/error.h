/* SPDX-License-Identifier: Apache-2.0 */
/* The text of the error being reported; one at a time. */
#ifndef TINY_RPC_ERROR_H
#define TINY_RPC_ERROR_H

#include "tiny_rpc.h"

const char *tiny_rpc_error_text(void);

/* First character of a format: stands for the kind of the error, which would else be spelt out in every message in flash. */
#define VALUE_ERROR "\1"
#define TYPE_ERROR "\2"
#define PROTOCOL_ERROR "\3"
#define MEMORY_ERROR "\4"
#define RUNTIME_ERROR "\5"
#define ATTRIBUTE_ERROR "\6"

#endif
