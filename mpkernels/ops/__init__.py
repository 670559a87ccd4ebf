"""The operators `torch.ops.mpkernels`: schemas, fake kernels, gradients, and who runs them."""
