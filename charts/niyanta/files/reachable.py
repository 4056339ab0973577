"""Requests each URL of the command line until its answer is 2xx; exit code 1 after a minute. Run by `helm test`."""

import ssl
import sys
import time
import urllib.request

# The certificate of the REST door has the names by which users reach it, not that of the Service.
context = ssl._create_unverified_context()  # noqa: S323
deadline = time.monotonic() + 60
for url in sys.argv[1:]:
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5, context=context) as answer:  # noqa: S310
                sys.stdout.write(f"{url} {answer.status}\n")
            break
        except OSError as error:
            sys.stdout.write(f"{url} {error}\n")
            if time.monotonic() > deadline:
                sys.exit(1)
            time.sleep(1)
