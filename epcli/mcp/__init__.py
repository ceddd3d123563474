"""Tools for other programs, over the Model Context Protocol. The SDK that speaks it is the extra `epcli[mcp]`."""
