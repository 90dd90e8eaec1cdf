"""Keys and usage: `/admin/keys` for administrators, `/usage` for callers. The command line uses the same schemas."""
