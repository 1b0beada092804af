# Every target is one call of scripts/dev, which needs Python 3.11 or newer and nothing else.
# Without make: scripts/dev demo, scripts/dev test, ...
#
#   make demo [PORT=8001] [HOST=0.0.0.0] [LAYER=database] [WORKERS=2]
#   make test [FAST=1] [ARGS="-k hub"] [DJANGO=6.0]
#   make matrix [FAST=1] [ARGS="-k hub"]
#   make bench [QUICK=1]
#   make drill [NAME="broker-cut presence"] [CHANNELS=1] [SOAK=3600] [FUZZ=600]
#              [TRANSACTIONS=100000]

.PHONY: help demo test matrix check bench drill docs package clean

help:
	@scripts/dev --help

demo:
	@scripts/dev demo $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) \
	    $(if $(LAYER),--layer $(LAYER)) $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)

test:
	@FAST=$(FAST) scripts/dev test $(ARGS)

matrix:
	@FAST=$(FAST) scripts/dev matrix $(ARGS)

check:
	@scripts/dev check

bench:
	@scripts/dev bench $(if $(QUICK),--quick) $(ARGS)

drill:
	@scripts/dev drill $(NAME) $(if $(CHANNELS),--stack tiderace --stack channels) \
	    $(if $(SOAK),--soak $(SOAK)) $(if $(FUZZ),--fuzz $(FUZZ)) \
	    $(if $(TRANSACTIONS),--transactions $(TRANSACTIONS)) $(ARGS)

docs:
	@scripts/dev docs

package:
	@scripts/dev package

clean:
	@scripts/dev clean
