# SPDX-License-Identifier: Apache-2.0
# What the Makefiles of the templates share. They set PORT_SOURCES, COMMON (flags of every file), LINK (command), LINK_NEEDS (files it reads)
# and LIBS; config.mk the rest.
ELF := build/firmware.elf
OBJECTS := $(patsubst %.c,build/%.o,$(PORT_SOURCES) $(APP_SOURCES) $(MODEL_SOURCES))
COMMON += -g -I. -Isrc -Isrc/rpc -Imodel/include
APP_FLAGS := -std=gnu11 -O2 -Wall -Wextra

all: $(ELF)

$(ELF): $(OBJECTS) $(LINK_NEEDS)
	$(LINK) $(LINK_FLAGS) -Wl,-Map=build/firmware.map -o $@ $(OBJECTS) $(LIBS)

build/model/%.o: model/%.c config.mk
	@mkdir -p $(@D)
	$(CC) $(COMMON) $(MODEL_FLAGS) -c -o $@ $<

build/%.o: %.c config.mk
	@mkdir -p $(@D)
	$(CC) $(COMMON) $(APP_FLAGS) $(APP_DEFINES) -c -o $@ $<

clean:
	rm -rf build

.PHONY: all clean
