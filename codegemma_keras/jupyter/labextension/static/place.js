// Where the cursor is: the code around it, and the path by which the model knows its
// language. What becomes of other cells and of magics is the server's (cells.py).

// Null: the cell holds no code.
export async function placeOf({ editor, widget, session }) {
  const text = editor.model.sharedModel.getSource();
  // The editor's own offset: a request's counts an emoji as one letter, a string as two.
  const offset = editor.getOffsetAt(editor.getCursorPosition());
  const around = { prefix: text.slice(0, offset), suffix: text.slice(offset) };
  const notebook = widget.content;
  if (notebook && notebook.widgets && notebook.activeCellIndex !== undefined) {
    if (!isCode(notebook.activeCell)) {
      return null;
    }
    const at = notebook.activeCellIndex;
    return {
      ...around,
      above: sources(notebook.widgets.slice(0, at)),
      below: sources(notebook.widgets.slice(at + 1)),
      path: pathOf(widget).replace(/\.ipynb$/, '') + (await extension(widget, session))
    };
  }
  if (widget.console) {
    const above = sources([...widget.console.cells]);
    return { ...around, above, path: 'console' + (await extension(widget, session)) };
  }
  return { ...around, path: pathOf(widget) };
}

function isCode(cell) {
  return cell.model.type === 'code';
}

function sources(cells) {
  return cells.filter(isCode).map(cell => cell.model.sharedModel.getSource());
}

// The path of a document, without the name of a drive ("RTC:").
function pathOf(widget) {
  return widget.context ? widget.context.path.replace(/^[^/]*:/, '') : '';
}

// What files of the kernel's language end with.
async function extension(widget, session) {
  const model = widget.content && widget.content.model;
  const written = model && model.getMetadata && model.getMetadata('language_info');
  if (written && written.file_extension) {
    return written.file_extension;
  }
  const kernel = session && session.kernel;
  const info = kernel && (await kernel.info);
  return (info && info.language_info.file_extension) || '.py';
}
