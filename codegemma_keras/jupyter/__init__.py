"""Ghost text in JupyterLab: a server extension, and a prebuilt front end for it.

    pip install "codegemma-keras[jupyter]"      # then start JupyterLab, and type

The model lives in the process of the Jupyter server, loaded when the first completion is
asked for, behind the scheduler of `codegemma serve`; or a `codegemma serve` elsewhere is
asked. What there is to choose among stands in `jupyter_server_config.py` (config.py):

    c.CodeGemma.preset = "code_gemma_2b_en"

The front end (labextension/static/) is plain JavaScript, written as it is loaded: it needs
no Node, neither to install nor to build. It takes JupyterLab's own modules from the scope
that all extensions share. JupyterLab's settings (Inline Completer) switch it on and off, and
set its delay.
"""

import importlib.util


def _jupyter_labextension_paths():
    return [{"src": "labextension", "dest": "codegemma-keras"}]


def _jupyter_server_extension_points():
    return [{"module": "codegemma_keras.jupyter"}]


def _load_jupyter_server_extension(server_app):
    # The wheel brings the extension to everyone; the extra says who wants it. The front
    # end asks whether the route is there.
    if importlib.util.find_spec("starlette") is None:
        server_app.log.info(
            "codegemma completes code inline if its packages for Jupyter are installed: "
            "pip install 'codegemma-keras[jupyter]'"
        )
        return
    from codegemma_keras.jupyter.handlers import add_routes

    add_routes(server_app)
