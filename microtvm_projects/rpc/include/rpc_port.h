/* SPDX-License-Identifier: Apache-2.0 */
/* What a file of ports/ defines for the application rpc_server.c. */
#ifndef TINY_RPC_PORT_H
#define TINY_RPC_PORT_H

#include "tiny_rpc.h"

/* Make the line ready and fill in `port`. 0, or -1 when there is no line. */
int tiny_rpc_port_open(tiny_rpc_port_t *port, int argc, char **argv);

#endif
