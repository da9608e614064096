// The pair component: pairs as a grid or table (pairs_grid.js) or one at a time (pairs_single.js), the pairs under the pointer
// on a map. Foreign text reaches the page as text content alone.

const UNDOABLE = 'clipmem-undoable'
const OPENED = 'clipmem-opened' // the last pair on the page Pair, which Browse marks
const CACHED = 200 // pairs in memory, and decisions that can be undone
const PARALLEL = 3 // pairs that load at once, with two requests each: a browser sends six at once
const POLL = 1000, SIGN = 4000, HOVER = 60 // milliseconds
const NEAR = 9 // pairs beside a map
const STEPS = {previous: -1, next: 1}, MOVES = {arrowup: -1, arrowdown: 1}
const KEY_NAMES = {escape: 'Esc', arrowleft: '←', arrowright: '→'} // others: in capitals
const TYPING = 'textarea, select, [contenteditable], [role=dialog], input:not([type=checkbox])'

// Make a node: its name and class, and as parts its properties, nodes and text.
function make(name, ...parts) {
    const [tag, className = ''] = name.split('.'), node = Object.assign(document.createElement(tag), {className})
    for (const part of parts) {
        if (part instanceof Node || typeof part !== 'object') node.append(part)
        else Object.assign(node, part)
    }
    return node
}

const foreign = (name, textContent, ...parts) => make(name, {dir: 'auto', textContent}, ...parts)
const button = (onclick, ...parts) => make('button', {type: 'button', onclick}, ...parts)
const labelOf = decision => decision === 'recaption' ? 'change caption' : decision
const counted = count => count === 1 ? '1 pair' : `${inWords(count)} pairs`
const altOf = (captions, fault) => fault ? 'Picture cannot be read' : `Picture: ${(captions[0] ?? '').slice(0, 120)}`

// The parts of a caption, its surprising words marked, its first `cut` marked sentences struck through; places count code points.
// The style reads a hint to screen readers.
function marked(caption, words = [], cut = 0) {
    const struck = words.filter(({sentence}) => sentence >= 0).slice(0, cut)
    const letters = Array.from(caption), text = (start, end) => letters.slice(start, end).join('')
    return [...words.flatMap((word, at) => [text(words[at - 1]?.end ?? 0, word.start),
        make(struck.includes(word) ? 's' : `u.strength${word.strength}`, text(word.start, word.end), {title: word.hint})]),
    text(words.at(-1)?.end ?? 0)]
}

// A caption without the first marked sentence that it still has; null if it has none.
function withoutSentence(caption = '', before = '', marks = []) {
    const sentences = marks.filter(({sentence}) => sentence >= 0).map(({start, end}) => Array.from(before).slice(start, end).join(''))
    const sentence = sentences.find(each => caption.includes(each))
    if (sentence === undefined) return null
    const [left, ...right] = caption.split(sentence), behind = right.join(sentence)
    const gap = /\s$/.test(left) || /^\s/.test(behind) ? ' ' : ''
    return [left.trimEnd(), behind.trimStart()].filter(Boolean).join(gap)
}

// Base of all layouts: listeners and timers that end with the layout, requests, and loaded pictures with their cards.
class Part {
    constructor(root, data) {
        Object.assign(this, {root, data, loaded: new Map(), timers: {}, stopped: new AbortController()})
    }

    stop() {
        this.isStopped = true
        this.stopped.abort()
        outbox.listeners.delete(this)
        Object.values(this.timers).forEach(clearTimeout)
        for (const row of this.loaded.keys()) this.forget(row)
    }

    find(name) {
        return this.root.querySelector(`.${name}`)
    }

    write(texts) {
        for (const [name, text] of Object.entries(texts)) this.find(name).textContent = text
    }

    on(node, name, react, capture = false) {
        node.addEventListener(name, react, {capture, signal: this.stopped.signal})
    }

    later(name, delay, react) {
        clearTimeout(this.timers[name])
        this.timers[name] = setTimeout(react, delay)
    }

    async ask(name, parameters) {
        const {prefix, audit, selection} = this.data
        const signal = AbortSignal.any([this.stopped.signal, AbortSignal.timeout(PATIENCE)])
        return ask(`${prefix}/${name}`, {parameters: {...selection, audit, ...parameters}, signal})
    }

    addressOf({row}, size = 'full') {
        return `${this.data.prefix}/picture?${new URLSearchParams({audit: this.data.audit, row, [size]: 1})}`
    }

    // Load a pair's picture and, unless the layout has it, the pair's card.
    async load(row) {
        this.loaded.set(row, null)
        const cards = this.cardOf ? [this.cardOf(row)] : this.ask('pairs', {rows: row}).then(answer => answer.json())
        const [answer, [card]] = await Promise.all([this.ask('picture', {row, ...this.size}), cards])
        const url = URL.createObjectURL(await answer.blob()), image = make('img', {src: url, draggable: false})
        const broken = await image.decode().then(() => '', () => 'the browser cannot show it')
        const fault = broken || decodeURIComponent(answer.headers.get('X-Fault') ?? '')
        image.alt = altOf(card.captions, fault)
        this.loaded.set(row, {card, image, fault, url})
        if (this.loaded.size > CACHED) this.forget(this.loaded.keys().next().value)
        if (this.isStopped) this.forget(row)
    }

    forget(row) {
        if (this.loaded.get(row)) URL.revokeObjectURL(this.loaded.get(row).url)
        this.loaded.delete(row)
    }
}

// The pairs under the pointer on a chart of Streamlit's, whose points carry the rows of their pairs.
class Pointer extends Part {
    constructor(root, data) {
        super(root, data)
        this.update(data)
        this.listen()
    }

    update(data) {
        Object.assign(this, {data, cards: new Map()})
        this.show(data.rows)
    }

    // Listen to the chart; Streamlit may replace it.
    listen() {
        this.later('listen', POLL / 2, () => this.listen())
        const plot = document.querySelector(`.${CSS.escape(this.data.chart)} .js-plotly-plot`)
        if (!plot?.on || plot === this.plot) return
        this.plot = plot
        plot.on('plotly_click', ({event}) => this.isStopped || this.trigger({rows: this.near(event)}))
        this.on(plot, 'mousemove', event => this.data.follows && this.later('hover', HOVER, () => this.show(this.near(event))))
    }

    // The rows of the points closest to the pointer, the closest first.
    near({clientX, clientY}) {
        const {_fullData: traces, _fullLayout: {xaxis, yaxis}} = this.plot
        const {left, top} = this.plot.querySelector('.nsewdrag').getBoundingClientRect()
        const distance = (x, y) => Math.hypot(left + xaxis.c2p(x) - clientX, top + yaxis.c2p(y) - clientY)
        const points = traces.filter(({visible, customdata}) => visible === true && customdata).flatMap(({x, y, customdata}) =>
            Array.from(customdata, (row, at) => ({row: [row].flat()[0], distance: distance(x[at], y[at])})))
        return points.sort((one, other) => one.distance - other.distance).slice(0, NEAR).map(({row}) => row)
    }

    async show(rows) {
        this.rows = rows
        const unknown = rows.filter(row => !this.cards.has(row))
        const cards = unknown.length ? await this.ask('pairs', {rows: unknown}).then(answer => answer.json()).catch(() => []) : []
        for (const card of cards) this.cards.set(card.row, card)
        const shown = rows.map(row => this.cards.get(row)).filter(Boolean)
        if (this.rows === rows) this.find('near').replaceChildren(...shown.map(({row, pair_id, captions, first, score}) => {
            const href = `pair?${new URLSearchParams({audit: this.data.audit, pair: pair_id})}`
            const picture = make('div.picture', make('img', {src: this.addressOf({row}, 'small'), alt: altOf(captions)}))
            return make('a.card', {href, target: '_blank'}, picture, foreign('p', captions[first] ?? ''), make('small', score))
        }))
    }
}

// Shared by grid and single pair: keys and buttons, preloading, decisions and undo, decisions of other tabs.
class Pairs extends Part {
    constructor(root, data) {
        super(root, data)
        this.entry = 0
        this.decisions = new Map() // row → decision, of this page or from the server's last answer
        this.captions = new Map() // row → its new captions, none if they are those of the data set
        this.undoable = tried(() => JSON.parse(sessionStorage.getItem(UNDOABLE))) ?? []
        this.addEvents(data)
        for (const [names, act] of Object.entries(data.acts))
            root.querySelector(`[data-act=${act}] span`)?.replaceChildren(...names.split(' ').map(name => make('kbd', name)))
        this.on(window, 'keydown', event => this.key(event), true)
        this.on(root, 'click', event => {
            const act = event.target.closest('[data-act]')?.dataset.act
            act ? this.act(act, event) : this.click(event)
        })
        this.on(this.find('refused'), 'click', () => this.drawRefusals([]))
        this.drawRefusals()
        outbox.listeners.add(this)
    }

    get pending() {
        return outbox.waiting.filter(event => event.audit === this.data.audit)
    }

    key(event) {
        const [target] = event.composedPath(), isShortcut = !event.altKey && !target.closest?.(TYPING)
        if (!isShortcut || !this.root.host.isConnected) return
        if (event.key === '?') document.querySelector('.st-key-keys button')?.click()
        else if (!this.pressed(event.key.toLowerCase(), event, target)) return
        event.preventDefault()
        event.stopPropagation()
    }

    // The act of a key, if any; Shift counts for a key that has an act of its own with Shift.
    actOf(key, {ctrlKey, metaKey, shiftKey}) {
        const {acts} = this.data, name = (ctrlKey || metaKey ? 'Ctrl ' : '') + (KEY_NAMES[key] ?? key.toUpperCase())
        return shiftKey && acts[`Shift ${name}`] || acts[name]
    }

    // Say something for a while, in place of what was said before unless that is late.
    sign(text, kind = '', ...parts) {
        const signs = this.find('signs'), sign = make(`p.sign ${kind}`, text, ...parts)
        for (const each of [...signs.children]) if (!each.matches('.late') || each.textContent === sign.textContent) each.remove()
        signs.append(sign)
        setTimeout(() => sign.remove(), sign.matches('.late') ? 2 * SIGN : SIGN)
    }

    loadAll(rows) {
        const slots = PARALLEL - [...this.loaded.values()].filter(each => each === null).length
        for (const row of rows.filter(each => !this.loaded.has(each)).slice(0, Math.max(0, slots))) {
            this.load(row).then(() => {
                this.failure = ''
                if (!this.isStopped) this.showLoaded(row)
            }, error => {
                this.failure = error.message
                this.forget(row)
                if (!this.isStopped) this.later('retry', POLL, () => this.draw())
            })
        }
    }

    set(row, decision, captions) {
        this.decisions.set(row, decision)
        this.captions.set(row, captions ?? [])
    }

    put(cards, fields) {
        const {prefix, audit, dataset} = this.data, [{pair_id, caption_key}, ...others] = cards
        const pairs = {pair_id, caption_key, others: others.map(card => [card.pair_id, card.caption_key])}
        return outbox.put({prefix, audit, dataset, rows: cards.map(({row}) => row), ...pairs, ...fields})
    }

    // Decide on pairs; `after` of a card: the captions that it gets in a swap.
    decide(cards, kind, fields = {}) {
        const decision = kind === 'undecide' ? null : kind === 'swap' ? 'recaption' : kind
        const {client, number} = this.put(cards, {kind, shows: decision, ...fields})
        const before = cards.map(({row}) => [row, this.decisions.get(row) ?? null, this.captions.get(row)])
        const {audit} = this.data, [{pair_id}] = cards
        for (const card of cards) this.set(card.row, decision, card.after ?? fields.captions ?? this.captions.get(card.row))
        this.storeUndoable([...this.undoable, {audit, client, number, pair_id, before}].slice(-CACHED))
    }

    // The decision on a pair and its new captions, as this page has them: the server refuses to replace any others.
    expected(row) {
        const before = this.decisions.get(row) ?? '', texts = this.captions.get(row) ?? []
        return before || texts.length ? [before, ...texts] : []
    }

    storeUndoable(undoable) {
        this.undoable = undoable
        tried(() => sessionStorage.setItem(UNDOABLE, JSON.stringify(undoable)))
    }

    // Buttons of the page store events, too; they follow those of earlier keys.
    addEvents({audit, events}) {
        for (const [event, undone] of events) {
            const known = this.undoable.find(each => each.audit === audit && each.event === event)
            if (!known) this.undoable.push({audit, event, undone})
            else known.undone ||= undone
        }
        this.storeUndoable(this.undoable)
    }

    get lastUndoable() {
        return this.undoable.findLast(({audit, undone}) => audit === this.data.audit && !undone)
    }

    undo() {
        const last = this.lastUndoable
        if (!last) return this.sign('Nothing to undo.')
        const {event, client, number, pair_id, before = []} = last, rows = before.map(([row]) => row)
        last.undone = true
        this.storeUndoable(this.undoable)
        this.put([{pair_id}], {rows, kind: 'undo', undoes: event ?? [client, number], shows: before[0]?.[1]})
        for (const each of before) this.set(...each)
        this.sign(event ? 'Undone.' : `Undone: ${counted(rows.length)}.`)
        this.undone(rows)
    }

    // Only the server has the captions before a change that this layout did not make.
    stored({kind, rows = []}) {
        if (['undo', 'undecide'].includes(kind) && (!rows.length || rows.some(row => this.changed?.has(row)))) this.reload()
    }

    adopt() {
        outbox.adopt(this.data.dataset)
        for (const {rows = [], shows, captions} of this.pending.filter(event => event.shows !== undefined))
            for (const row of rows) this.set(row, shows, captions ?? this.captions.get(row))
        this.later('poll', POLL, () => this.poll())
    }

    sent() {
        this.drawState()
        if ('poll' in this.timers && (this.polled || !outbox.waiting.length)) this.poll() // the status follows the last decision
    }

    refused(event) {
        this.drawRefusals()
        if (event.audit !== this.data.audit) return
        this.storeUndoable(this.undoable.filter(({client, number}) => client !== event.client || number !== event.number))
        this.entry = 0 // the next poll asks for all decisions
        this.replaceDecisions((event.rows ?? []).map(row => [row, null]))
    }

    // Replace decisions; the cards of their pairs are out of date.
    replaceDecisions(decided) {
        for (const [row, decision] of decided) {
            this.set(row, decision)
            this.forget(row)
        }
        if (decided.length) this.draw()
    }

    drawRefusals(refusals = outbox.refusals) {
        outbox.refusals = refusals
        const more = refusals.length > 1 ? ` And ${inWords(refusals.length - 1)} more.` : ''
        this.write({refused: refusals.length ? `Not saved: ${refusals.at(-1)}.${more}` : ''})
    }

    // Why events stay in the outbox; empty if the server stores them.
    get trouble() {
        const {trouble, waiting} = outbox
        return trouble && waiting.length ? `${inWords(waiting.length)} unsent (${trouble}); retrying` : trouble
    }

    // Ask for decisions of other tabs; those in the outbox are newer. A newer poll replaces one whose answer may be out of date.
    async poll() {
        const request = this.polled = {}, visible = !document.hidden && this.root.host.isConnected
        const answer = visible && await this.ask('changes', {entry: this.entry}).then(response => response.json()).catch(() => null)
        if (this.isStopped || this.polled !== request) return
        this.polled = null
        this.later('poll', POLL, () => this.poll())
        if (!answer) return
        const unsent = new Set(this.pending.flatMap(event => event.rows))
        const decided = Object.entries(answer.decided).map(([row, decision]) => [Number(row), decision])
        const changed = decided.filter(([row, decision]) => !unsent.has(row) && (this.decisions.get(row) ?? null) !== decision)
        this.entry = answer.entry
        this.replaceDecisions(changed)
        this.showChanges?.(changed, answer.status)
    }
}

const views = new WeakMap()

// Streamlit calls this after each run of the page's script, and the returned function when the user leaves the page.
export default function ({data, parentElement: root, setTriggerValue}) {
    const {layout} = data, json = JSON.stringify(data), before = views.get(root)
    for (const node of root.querySelectorAll(`[data-only]:not([data-only=${layout}])`)) node.remove()
    const updates = before?.update && !before.isStopped && before.data.audit === data.audit
    if (before?.json !== json && updates) before.update(data)
    else if (before?.json !== json || before.isStopped) {
        before?.stop()
        views.set(root, new {grid: Grid, single: Single, pointer: Pointer}[layout](root, data))
    }
    const view = Object.assign(views.get(root), {json, trigger: value => setTriggerValue('act', value)})
    return () => view.stop()
}
