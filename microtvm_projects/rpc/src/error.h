/* SPDX-License-Identifier: Apache-2.0 */
/* The text of the error being reported; one at a time. */
#ifndef TINY_RPC_ERROR_H
#define TINY_RPC_ERROR_H

#include "tiny_rpc.h"

const char *tiny_rpc_error_text(void);

#endif
