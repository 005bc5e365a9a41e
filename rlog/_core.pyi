"""Types of the native core. Filled in by section as the native code lands."""
