"""Bridges to other libraries that thrifty does not depend on. Import the one you want."""
