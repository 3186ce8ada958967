"""Generated from proto/secateur/v1 by `make proto`: do not edit."""
