// What JupyterLab starts: asks the Jupyter server what it offers, then registers the
// provider of completions and the item in the status bar.
import { Server } from './server.js';
import { Provider } from './provider.js';
import { Status } from './status.js';

export async function makePlugin(shared) {
  const { ICompletionProviderManager } = await shared('@jupyterlab/completer');
  const services = await shared('@jupyterlab/services');
  const { Widget } = await shared('@lumino/widgets');
  const statusbar = await shared('@jupyterlab/statusbar');
  return {
    id: 'codegemma-keras:inline',
    autoStart: true,
    requires: [ICompletionProviderManager],
    optional: statusbar ? [statusbar.IStatusBar] : [],
    activate: async (app, manager, bar) => {
      const server = new Server(services.ServerConnection);
      const offered = await server.offered();
      if (!offered) {
        return; // the packages for Jupyter are not installed on the server
      }
      const status = new Status(server, new Widget(), () =>
        app.commands.execute('settingeditor:open', { query: 'Inline Completer' })
      );
      if (bar) {
        const item = { item: status.widget, align: 'right', rank: 50 };
        bar.registerStatusItem('codegemma-keras:status', item);
      }
      if (offered.message) {
        status.set('error', offered.message);
      } else {
        status.model = offered.models[0];
        manager.registerInlineProvider(new Provider(server, status, offered.models));
      }
    }
  };
}
