// Shows /openapi.json: its operations by section, with parameters, schemas, and a form to send each.
'use strict';

const token = new URLSearchParams(location.search).get('token');
const headers = token ? {Authorization: `Bearer ${token}`} : {};
const $ = id => document.getElementById(id);
let api;

/** An element with properties and children, which are elements or texts. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter(child => child !== undefined && child !== ''));
  return made;
}

/** Something to be opened, whose content is made when it is. */
function folded(summary, content) {
  const details = element('details', {}, element('summary', {}, ...[summary].flat()));
  details.addEventListener('toggle', () => details.append(...[content()].flat()), {once: true});
  return details;
}

/** What a reference stands for. */
function resolved(value) {
  for (let depth = 0; value?.$ref && depth < 16; depth++) {
    const path = value.$ref.replace(/^#\//, '').split('/').map(part => decodeURIComponent(part).replace(/~1/g, '/').replace(/~0/g, '~'));
    const {$ref, ...beside} = value;
    value = {...path.reduce((found, part) => found?.[part], api), ...beside};
  }
  return value ?? {};
}

/** A schema's type in words. */
function typeOf(schema) {
  if (schema === true) return 'anything';
  if (schema.$ref && !/\/\$defs\//.test(schema.$ref)) return schema.$ref.split('/').at(-1);
  const found = resolved(schema);
  if ('const' in found) return JSON.stringify(found.const);
  if (found.enum) return found.enum.map(value => JSON.stringify(value)).join(' | ');
  const variants = found.oneOf ?? found.anyOf;
  if (variants) return variants.map(typeOf).join(' or ');
  if (found.format === 'binary') return 'file';
  const types = [found.type ?? 'anything'].flat().map(type => type === 'array' ? `list of ${typeOf(found.items ?? true)}` : type);
  const range = [found.minimum, found.maximum].some(limit => limit !== undefined) ? ` ${found.minimum ?? ''}..${found.maximum ?? ''}` : '';
  return types.join(' or ') + range + (found.default === undefined ? '' : ` = ${JSON.stringify(found.default)}`);
}

/** A schema's fields, or its variants. */
function fields(schema) {
  const found = resolved(schema);
  const items = [found.type].flat().includes('array') ? fields(found.items ?? {}) : [];
  const variants = (found.oneOf ?? found.anyOf ?? []).filter(variant => isDeep(variant));
  const named = variants.map(variant => folded(resolved(variant).title ?? typeOf(variant), () => fields(variant)));
  const rows = Object.entries(found.properties ?? {}).map(([name, field]) => {
    const optional = found.required?.includes(name) ? '' : '?';
    const head = [element('code', {}, name + optional), ' ', element('span', {className: 'quiet'}, typeOf(field))];
    const about = field === true ? '' : resolved(field).description;
    const text = about ? [': ' + about] : [];
    return element('li', {}, isDeep(field) ? folded([...head, ...text], () => fields(field)) : element('span', {}, ...head, ...text));
  });
  return [...(rows.length ? [element('ul', {}, ...rows)] : []), ...named, ...items];
}

/** Whether there is more in a schema than its type in words. */
function isDeep(schema) {
  const found = resolved(schema);
  return Boolean(found.properties) || [...(found.oneOf ?? []), ...(found.anyOf ?? [])].some(isDeep) || (found.items !== undefined && isDeep(found.items));
}

function content(of) {
  return Object.entries(of ?? {}).map(([type, {schema}]) =>
    schema && isDeep(schema)
      ? folded([element('code', {}, type), ' ', typeOf(schema)], () => fields(schema))
      : element('p', {}, element('code', {}, type), schema ? ` ${typeOf(schema)}` : ''));
}

function titled(title, children) {
  return children.length ? [element('h3', {}, title), ...children] : [];
}

function list(entries) {
  return entries.length ? [element('ul', {}, ...entries)] : [];
}

function operation(path, method, described) {
  const parameters = (described.parameters ?? []).map(({name, in: place, required, description, schema}) => element('li', {},
    element('code', {}, name + (required ? '' : '?')), ' ', element('span', {className: 'quiet'}, `${place}, ${typeOf(schema)}`), description ? `: ${description}` : ''));
  const answers = Object.entries(described.responses).map(([status, answer]) => {
    const {description, headers, content: of} = resolved(answer);
    const named = Object.entries(headers ?? {}).map(([name, header]) => element('li', {}, element('code', {}, name), `: ${header.description}`));
    return element('li', {}, element('code', {}, status), ` ${description}`, ...list(named), ...content(of));
  });
  const details = folded(
    [element('span', {className: 'method'}, method), element('code', {}, path), ' ', element('span', {className: 'quiet'}, described.summary)],
    () => [
      ...(described.description ? [element('p', {}, described.description)] : []),
      ...titled('Parameters', list(parameters)),
      ...titled('Body', content(described.requestBody?.content)),
      ...titled('Answers', list(answers)),
      ...trial(path, method, described),
    ]);
  details.className = 'operation';
  details.dataset.path = path;
  return details;
}

/** A form that sends the operation. None for connections that stay open. */
function trial(path, method, described) {
  const types = Object.keys(described.responses[200]?.content ?? {});
  if (described.responses[101] || types.includes('text/event-stream')) return [];
  const inputs = (described.parameters ?? []).map(parameter => {
    const input = element('input', {name: parameter.name, required: parameter.required});
    return {parameter, input, label: element('label', {}, parameter.name, input)};
  });
  const accepted = described.requestBody?.content ?? {};
  const form = accepted['multipart/form-data'];
  const parts = Object.entries(form ? resolved(form.schema).properties : {}).map(([name, schema]) => {
    const file = [schema, ...(schema.anyOf ?? [])].some(part => resolved(part).format === 'binary');
    const input = element('input', {name, type: file ? 'file' : 'text'});
    return {input, label: element('label', {}, name, input)};
  });
  const body = accepted['application/json'] && element('textarea', {value: '{}', spellcheck: false});
  const output = element('div', {ariaLive: 'polite'});
  const made = element('form', {className: 'try'}, ...[...inputs, ...parts].map(({label}) => label),
    body ? element('label', {}, 'Body (JSON)', body) : '', element('button', {}, 'Send'), output);
  made.addEventListener('submit', async event => {
    event.preventDefault();
    const query = new URLSearchParams(), sent = {...headers};
    let target = path;
    for (const {parameter, input} of inputs) {
      if (input.value === '') continue;
      if (parameter.in === 'path') target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (parameter.in === 'query') query.set(parameter.name, input.value);
      else sent[parameter.name] = input.value;
    }
    const request = {method: method.toUpperCase(), headers: sent};
    if (body) {
      request.body = body.value;
      sent['Content-Type'] = 'application/json';
    } else if (form) {
      request.body = new FormData();
      for (const {input} of parts) {
        const value = input.type === 'file' ? input.files[0] : input.value;
        if (value) request.body.append(input.name, value);
      }
    }
    output.replaceChildren('…');
    try {
      output.replaceChildren(...await shown(await fetch(target + (query.size ? `?${query}` : ''), request)));
    } catch (error) {
      output.replaceChildren(element('p', {className: 'bad'}, String(error)));
    }
  });
  return [made];
}

/** An answer: its status, its headers, and its picture or text. */
async function shown(answer) {
  const head = element('p', {className: answer.ok ? '' : 'bad'}, `${answer.status} ${answer.statusText}`);
  const names = element('pre', {}, [...answer.headers].map(([name, value]) => `${name}: ${value}`).join('\n'));
  const type = answer.headers.get('content-type') ?? '';
  if (type.startsWith('image/')) {
    return [head, names, element('img', {src: URL.createObjectURL(await answer.blob()), alt: 'the picture of the answer'})];
  }
  const text = await answer.text();
  try {
    return [head, names, element('pre', {}, JSON.stringify(JSON.parse(text), null, 2))];
  } catch {
    return [head, names, element('pre', {}, text)];
  }
}

function show() {
  $('about').textContent = `${api.info.description} Version ${api.info.version}.`;
  for (const {name, description} of api.tags) {
    const operations = Object.entries(api.paths).flatMap(([path, methods]) => Object.entries(methods)
      .filter(([, described]) => described.tags.includes(name))
      .map(([method, described]) => operation(path, method, described)));
    if (!operations.length) continue;
    const id = name.toLowerCase().replace(/[^a-z0-9]+/g, '-');
    $('sections').append(element('a', {href: `#${id}`}, name));
    $('operations').append(element('section', {id}, element('h2', {}, name), element('p', {className: 'quiet'}, description), ...operations));
  }
}

function filter() {
  const wanted = $('filter').value.trim().toLowerCase();
  for (const section of document.querySelectorAll('section')) {
    const operations = [...section.querySelectorAll('.operation')];
    for (const one of operations) one.hidden = !one.dataset.path.toLowerCase().includes(wanted);
    section.hidden = operations.every(one => one.hidden);
  }
}

async function start() {
  // For the links of this page, which can set no header.
  if (token) { await fetch('/v1/session', {method: 'POST', headers}); history.replaceState(null, '', location.pathname); }
  $('search').addEventListener('submit', event => event.preventDefault());
  $('filter').addEventListener('input', filter);
  const answer = await fetch('/openapi.json', {headers});
  if (answer.status === 401) throw new Error('a key is required: enter it at /ui/, or add ?token=KEY to the address of this page');
  if (!answer.ok) throw new Error(`/openapi.json: ${answer.status} ${await answer.text()}`);
  api = await answer.json();
  show();
  $('status').textContent = '';
}

start().catch(error => {
  $('status').textContent = error.message;
  $('status').className = 'bad';
});
