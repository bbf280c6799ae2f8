// JupyterLab's part of the inline completion, as JupyterLab loads it.
//
// JupyterLab runs this file, calls `init` with the modules that all extensions share, and
// `get("./extension")` for the plugin: what a bundler would write, by hand, for there is
// nothing to bundle. The plugin and its parts are modules in the files beside this one.
(() => {
  'use strict';
  const here = document.currentScript.src;
  let scope;

  // A module of JupyterLab's own, of whichever version is there; null: it is not there, as
  // the status bar in Jupyter Notebook.
  async function shared(name) {
    if (!scope[name]) {
      return null;
    }
    const [version] = Object.values(scope[name]);
    return (await version.get())();
  }

  const container = {
    init: async share => {
      scope = share;
    },
    get: async () => {
      const { makePlugin } = await import(new URL('plugin.js', here));
      const plugin = await makePlugin(shared);
      return () => ({ __esModule: true, default: plugin });
    }
  };
  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB['codegemma-keras'] = container;
})();
