"""The Triton kernels. Imported only when they are asked for: needs triton, and a GPU or its interpreter."""
