// The item in JupyterLab's status bar: which model, and what it is doing. A click opens the
// settings.
const SHOWN = {
  idle: ['', 'Completes code while you type.'],
  loading: [': loading', 'The model is being loaded. Completions come after that.'],
  completing: [': completing', 'A completion is being written.'],
  error: [': error', '']
};
const SECONDS = 2; // between two questions whether the model is there

export class Status {
  constructor(server, widget, open) {
    this.widget = widget;
    this.state = 'idle';
    this._server = server;
    this._model = '';
    this._detail = '';
    widget.addClass('jp-StatusBar-TextItem');
    widget.addClass('codegemma-status');
    widget.node.style.cursor = 'pointer';
    widget.node.onclick = open;
    this._show();
  }

  get model() {
    return this._model;
  }

  set model(name) {
    this._model = name;
    this._show();
  }

  // Whether there is a status bar that shows it.
  get visible() {
    return this.widget.isAttached;
  }

  set(state, detail = '') {
    const before = this.state;
    this.state = state;
    this._detail = detail;
    this._show();
    if (state === 'loading' && before !== 'loading') {
      this._untilLoaded();
    }
  }

  // Whoever typed on has ended the request that would have told the end of the loading.
  async _untilLoaded() {
    while (this.state === 'loading') {
      await new Promise(resolve => setTimeout(resolve, 1000 * SECONDS));
      const offered = await this._server.offered().catch(() => null);
      if (this.state === 'loading' && !(offered && offered.loading)) {
        this.set('idle');
      }
    }
  }

  _show() {
    const [suffix, title] = SHOWN[this.state];
    this.widget.node.textContent = `CodeGemma ${this._model}${suffix}`;
    this.widget.node.title = this._detail || title;
    this.widget.node.dataset.state = this.state;
  }
}
