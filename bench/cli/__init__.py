"""The commands of `python -m bench`, one file a group; each adds itself to the parser."""

import os

# No plugin is of use here, and looking for them costs a tenth of the time of --help.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
