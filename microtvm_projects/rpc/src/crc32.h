/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32 (IEEE 802.3, reflected 0xEDB88320), four bits at a time: 64 bytes of table. */
#ifndef TINY_RPC_CRC32_H
#define TINY_RPC_CRC32_H

#include <stddef.h>
#include <stdint.h>

uint32_t tiny_rpc_crc32(const uint8_t *bytes, size_t count);

#endif
