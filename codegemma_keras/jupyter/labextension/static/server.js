// The route of the server extension: on the origin of this page, with its login and its
// XSRF token, as JupyterLab's own requests.
export class Server {
  constructor(ServerConnection) {
    this._connection = ServerConnection;
    this._settings = ServerConnection.makeSettings();
    this._url = this._settings.baseUrl + 'codegemma/complete';
  }

  // `{ models, loading }`, or `{ message }` that says what is wrong with the server's
  // configuration; null: the route is not there.
  async offered() {
    const response = await this._request({});
    return response.status === 404 ? null : response.json();
  }

  // An answer under way. `signal` ends it.
  ask(body, signal) {
    const init = { method: 'POST', body: JSON.stringify({ ...body, stream: true }), signal };
    return new Answer(this._request(init), signal);
  }

  _request(init) {
    return this._connection.makeRequest(this._url, init, this._settings);
  }
}

// The text that has come so far; see `CompleteHandler` for the lines of the stream.
class Answer {
  constructor(response, signal) {
    this.text = '';
    this.error = null; // what is wrong, in a sentence
    this.loading = false;
    this.model = null; // which one wrote the text; known at its end
    this._signal = signal;
    this._lines = lines(response);
  }

  // Wait until there is more to know; false: it has ended, by itself or by the signal.
  async more() {
    try {
      const { value, done } = await this._lines.next();
      if (done || this._signal.aborted) {
        return false;
      }
      this.loading = value.state === 'loading';
      this.text += value.text || '';
      this.error = value.message || null;
      this.model = value.model || null;
      return !value.done && !this.error;
    } catch (error) {
      if (!this._signal.aborted) {
        this.error = `The Jupyter server does not answer: ${error.message}`;
      }
      return false;
    }
  }
}

async function* lines(requested) {
  const response = await requested;
  if (!response.ok) {
    yield { message: (await response.json()).message, done: true };
    return;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) {
      return;
    }
    const whole = (rest + value).split('\n');
    rest = whole.pop();
    for (const line of whole) {
      yield JSON.parse(line);
    }
  }
}
