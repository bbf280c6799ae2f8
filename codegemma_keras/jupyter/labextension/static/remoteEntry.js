// JupyterLab's part of the inline completion: one provider, which asks the server extension.
//
// JupyterLab loads this file, calls `init` with the modules that all extensions share, and
// `get("./extension")` for the plugin: what a bundler would write, by hand, for there is
// nothing to bundle.
(() => {
  'use strict';
  let scope;

  // A module of JupyterLab's own, of whichever version is there.
  async function shared(name) {
    const [version] = Object.values(scope[name]);
    return (await version.get())();
  }

  // The text of a notebook, as one program: its code cells, with an empty line between.
  function around(panel, request) {
    const before = request.text.slice(0, request.offset);
    const after = request.text.slice(request.offset);
    const notebook = panel.content;
    if (!notebook || !notebook.widgets || notebook.activeCellIndex === undefined) {
      return { prefix: before, suffix: after };
    }
    const code = cells =>
      cells.filter(cell => cell.model.type === 'code').map(cell => cell.model.sharedModel.source);
    const above = code(notebook.widgets.slice(0, notebook.activeCellIndex));
    const below = code(notebook.widgets.slice(notebook.activeCellIndex + 1));
    return {
      prefix: [...above, before].join('\n\n'),
      suffix: [after, ...below].join('\n\n')
    };
  }

  class Provider {
    constructor(services) {
      this.identifier = 'codegemma';
      this.name = 'CodeGemma';
      this.schema = {
        properties: {
          until: {
            title: 'Where a completion ends while you type',
            type: 'string',
            enum: ['line', 'statement', 'block'],
            default: 'line'
          },
          maxTokens: { title: 'At most so many tokens', type: 'number', default: 64 }
        }
      };
      this._services = services;
      this._editor = 'jupyterlab-' + Math.random().toString(36).slice(2);
      this.configure({});
    }

    configure(settings) {
      this._until = settings.until || 'line';
      this._maxTokens = settings.maxTokens || 64;
    }

    async fetch(request, context) {
      const { ServerConnection } = this._services;
      const settings = ServerConnection.makeSettings();
      const path = context.widget.context ? context.widget.context.path : null;
      const body = {
        ...around(context.widget, request),
        path: path ? path.split('/').pop().replace(/\.ipynb$/, '.py') : null,
        // 0: asked for by the user, who gets a whole block.
        until: context.triggerKind === 0 ? 'block' : this._until,
        max_tokens: this._maxTokens,
        editor: this._editor
      };
      const response = await ServerConnection.makeRequest(
        settings.baseUrl + 'codegemma/complete',
        { method: 'POST', body: JSON.stringify(body) },
        settings
      );
      const answer = await response.json();
      if (!response.ok) {
        return { items: [{ insertText: '', error: { message: answer.message } }] };
      }
      return { items: answer.text ? [{ insertText: answer.text }] : [] };
    }
  }

  const container = {
    init: async share => {
      scope = share;
    },
    get: async () => {
      const { ICompletionProviderManager } = await shared('@jupyterlab/completer');
      const services = await shared('@jupyterlab/services');
      const plugin = {
        id: 'codegemma-keras:inline',
        autoStart: true,
        requires: [ICompletionProviderManager],
        activate: async (app, manager) => {
          const { ServerConnection } = services;
          const settings = ServerConnection.makeSettings();
          const url = settings.baseUrl + 'codegemma/complete';
          const there = await ServerConnection.makeRequest(url, {}, settings);
          if (there.ok) {
            manager.registerInlineProvider(new Provider(services));
          }
        }
      };
      return () => ({ __esModule: true, default: plugin });
    }
  };
  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB['codegemma-keras'] = container;
})();
