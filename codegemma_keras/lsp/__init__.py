"""A language server that completes inline: `textDocument/inlineCompletion`, LSP 3.18.

    codegemma lsp code_gemma_tiny_py        # the editor starts it, and talks by stdio

The model lives in this process, behind the same scheduler as `codegemma serve`: a newer
request of the editor ends the older one, and what was read stays in the cache. The
other documents that are open are shown to the model.
"""
