// JupyterLab's interface for inline completion: `fetch` gives the first piece of a text,
// `stream` what comes after it. JupyterLab itself waits between the last key and the
// request ("Debouncer delay"), and switches a provider off.
import { placeOf } from './place.js';

const INVOKED = 0; // of JupyterLab's kinds of triggers: the user asked, by Alt-\

export class Provider {
  constructor(server, status, models) {
    this.identifier = 'codegemma';
    this.name = 'CodeGemma';
    this.schema = schema(models);
    this._server = server;
    this._status = status;
    this._models = models;
    this._editor = 'jupyterlab-' + Math.random().toString(36).slice(2);
    this._answers = new Map(); // token -> what is streamed
    this._ending = new AbortController();
    this.configure({});
  }

  configure(settings) {
    this._until = settings.until || 'line';
    this._maxTokens = settings.maxTokens || 64;
    this._model = settings.model || null;
    this._status.model = this._model || this._models[0];
  }

  async fetch(request, context) {
    // An older text is of no use any more, wherever the cursor is now.
    this._ending.abort();
    const ending = (this._ending = new AbortController());
    endWithChange(context.editor, ending);
    const place = await placeOf(context);
    if (!place || ending.signal.aborted) {
      return { items: [] };
    }
    const body = {
      ...place,
      until: context.triggerKind === INVOKED ? 'block' : this._until,
      max_tokens: this._maxTokens,
      editor: this._editor,
      model: this._model
    };
    const answer = this._server.ask(body, ending.signal);
    this._status.set('completing');
    let more = true;
    while (more && !answer.text) {
      more = await answer.more();
      this._follow(answer, more, ending);
    }
    if (answer.error && !answer.text && !this._status.visible) {
      return { items: [{ insertText: '', error: { message: answer.error } }] };
    }
    // No item for no text: Tab would accept it, and indent nothing.
    if (!answer.text || ending.signal.aborted) {
      return { items: [] };
    }
    if (!more) {
      return { items: [{ insertText: answer.text }] };
    }
    const token = String(Math.random());
    this._answers.set(token, { answer, ending });
    return { items: [{ insertText: answer.text, isIncomplete: true, token }] };
  }

  async *stream(token) {
    const { answer, ending } = this._answers.get(token);
    this._answers.delete(token);
    let more = true;
    while (more) {
      more = await answer.more();
      this._follow(answer, more, ending);
      if (!ending.signal.aborted) {
        const error = answer.error ? { message: answer.error } : undefined;
        yield { response: { insertText: answer.text, error } };
      }
    }
  }

  // Show in the status bar what becomes of the newest answer.
  _follow(answer, more, ending) {
    if (ending !== this._ending) {
      return;
    }
    if (answer.error) {
      this._status.set('error', answer.error);
    } else if (answer.loading) {
      this._status.set('loading');
    } else if (more) {
      this._status.set('completing');
    } else if (!ending.signal.aborted || this._status.state === 'completing') {
      this._status.model = answer.model || this._status.model;
      this._status.set('idle');
    }
  }
}

// The text is for the place where the cursor was: a key that changes it ends the text, also
// where JupyterLab asks for no new one.
function endWithChange(editor, ending) {
  const { changed } = editor.model.sharedModel;
  const end = (_, change) => change.sourceChange && ending.abort();
  changed.connect(end);
  ending.signal.addEventListener('abort', () => changed.disconnect(end));
}

// What the page of settings shows. JupyterLab adds its own: enabled, timeout, debouncer
// delay, and whether to complete in the middle of a line.
function schema(models) {
  const properties = {
    until: {
      title: 'Where a completion ends while you type',
      type: 'string',
      enum: ['line', 'statement', 'block'],
      default: 'line'
    },
    maxTokens: { title: 'At most so many tokens', type: 'integer', minimum: 1, default: 64 }
  };
  if (models.length > 1) {
    // No `enum`: JupyterLab would drop all settings of the completer when the administrator
    // offers a chosen model no more. The server says then what it offers.
    properties.model = {
      title: 'Model',
      description: `One of: ${models.join(', ')}. Empty: ${models[0]}.`,
      type: 'string',
      examples: models,
      default: ''
    };
  }
  const defaults = { until: 'line', maxTokens: 64, timeout: 300000, autoFillInMiddle: true };
  return { properties, default: models.length > 1 ? { ...defaults, model: '' } : defaults };
}
