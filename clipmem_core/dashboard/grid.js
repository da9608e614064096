// Pairs as pictures side by side, or as rows: opened by a click, chosen and decided with the mouse or by keys.
//
// A decision is on the pairs that are chosen, or on the one that is marked, as they are painted at that moment. All that
// others wrote reaches the page as text content. What this begins with is in review_outbox.js.

const SIZE = 'clipmem-size', SCROLL = 'clipmem-scroll', UNDOABLE = 'clipmem-grid-undoable'
const AT_ONCE = 4 // pictures on their way
const HELD = 300 // pictures, and what can be undone
const EVENT = 500 // pairs of one event
const POLL = 2000, PATIENT = 1500 // milliseconds; the last: to have all stored before a page is turned
const DECISIONS = {k: 'keep', x: 'remove'}
const ARROWS = {arrowleft: -1, arrowright: 1, arrowup: -Infinity, arrowdown: Infinity}
const INTERACTIVE = 'button, a, summary, input, [role=slider], [role=radio], [role=tab], [role=option], [role=switch]'
const chosenOf = {} // what is chosen, row → card, by the pairs that are shown: it stays from page to page

const make = (name, className = '', textContent = '') => Object.assign(document.createElement(name), {className, textContent})
const scroller = () => document.querySelector('[data-testid=stMain]')

class Grid {
    constructor(root, data) {
        Object.assign(this, {root, current: -1, from: -1, entry: 0})
        this.pictures = new Map() // row → {url, fault}; null: on its way
        this.stands = new Map() // row → what is decided, by this page or as the server said last
        this.tags = new Map()
        this.nodes = new Map()
        this.undoable = tried(() => JSON.parse(sessionStorage.getItem(UNDOABLE)), null) ?? []
        this.stopped = new AbortController()
        this.find = name => root.querySelector(`.${name}`)
        this.section = this.find('grid')
        this.listen()
        outbox.listeners.add(this)
        outbox.adopt(data.dataset)
        this.take(data)
        this.restore()
        this.poller = setTimeout(() => this.poll(), POLL)
    }

    get gone() {
        return this.stopped.signal.aborted
    }

    get chosen() {
        return chosenOf[this.data.view] ??= new Map()
    }

    get pending() {
        return outbox.waiting.filter(told => told.audit === this.data.audit)
    }

    stop() {
        this.stopped.abort()
        outbox.listeners.delete(this)
        for (const timer of [this.poller, this.signer, this.retrier]) clearTimeout(timer)
        for (const picture of this.pictures.values()) if (picture?.url) URL.revokeObjectURL(picture.url)
    }

    // What the page's script says: other pairs, or the same ones as they stand now.
    take(data) {
        const before = this.data, rows = data.cards.map(card => card.row)
        const other = !before || rows.join() !== this.cards.map(card => card.row).join() || before.layout !== data.layout
            || before.order !== data.order || before.address !== data.address
        this.data = data
        this.cards = data.cards
        this.byRow = new Map(data.cards.map(card => [card.row, card]))
        this.entry = Math.max(this.entry, data.entry)
        const own = new Set(this.pending.flatMap(told => told.rows ?? [told.row]))
        for (const card of data.cards) {
            this.tags.set(card.row, card.tags)
            if (!own.has(card.row)) this.stands.set(card.row, card.decision)
            if (this.chosen.has(card.row)) this.chosen.set(card.row, card)
        }
        this.atDraw = new Map(data.cards.map(card => [card.row, card.decision]))
        if (other) this.build(before && before.page !== data.page)
        this.draw()
    }

    build(turned) {
        const cards = this.find('cards')
        cards.classList.toggle('table', this.data.layout === 'table')
        this.section.classList.toggle('compact', !this.data.main)
        cards.style.setProperty('--scores', this.data.scores.length)
        this.nodes = new Map(this.cards.map((card, place) => [card.row, this.node(card, place)]))
        cards.replaceChildren(...(this.data.layout === 'table' ? [this.head()] : []), ...this.nodes.values())
        this.current = this.from = -1
        if (turned) {
            scroller()?.scrollTo(0, 0)
            if (this.byKey) this.mark(0)
        }
        this.byKey = false
        this.forget()
        this.fetchPictures()
    }

    head() {
        const head = make('div', 'head')
        head.append(make('span'), make('span'), make('span', '', 'caption'), make('span', '', 'decision'))
        for (const [name, label] of this.data.scores) {
            const button = Object.assign(make('button', name === this.data.order ? 'order' : '', label), {type: 'button'})
            button.addEventListener('click', () => this.tell({order: name}))
            head.append(button)
        }
        return head
    }

    node(card, place) {
        const node = Object.assign(make('article', 'card'), {tabIndex: -1})
        node.dataset.row = card.row
        const link = Object.assign(make('a', 'picture'), {href: this.fullSize(card)})
        link.tabIndex = place ? -1 : 0
        link.append(Object.assign(make('img'), {alt: 'Picture is being read', draggable: false}))
        link.querySelector('img').style.visibility = 'hidden'
        const check = Object.assign(make('input', 'check'), {type: 'checkbox', tabIndex: -1})
        check.setAttribute('aria-label', `Select this pair: ${(card.captions[0] ?? '').slice(0, 80)}`)
        const words = make('div', 'words'), said = make('div', 'said')
        said.append(this.pairLink(card, 'caption', card.captions[0] || '(no caption)'), make('p', 'tags'),
            Object.assign(make('p', 'fault'), {hidden: true}), this.facts(card), this.rest(card))
        words.append(said, make('span', 'badge'), this.scores(card))
        node.append(link, check, words)
        return node
    }

    pairLink(card, className, text) {
        const href = `pair?${this.data.address}&pair=${encodeURIComponent(card.pair_id)}`
        return Object.assign(make('a', className, text), {href, dir: 'auto', tabIndex: -1})
    }

    facts(card) {
        const facts = make('p', 'facts')
        for (const [text, colour, title] of card.facts) {
            const fact = Object.assign(make('bdi', '', text), {title})
            fact.style.setProperty('--dot', colour)
            facts.append(fact)
        }
        return facts
    }

    scores(card) {
        const list = make('dl', 'scores')
        this.data.scores.forEach(([name, label], place) => {
            const line = make('div', name === this.data.order ? 'order' : '')
            line.append(make('dt', '', label), make('dd', '', card.scores[place]))
            list.append(line)
        })
        return list
    }

    rest(card) {
        const rest = make('details'), others = card.captions.length - 1
        const title = others > 0 ? `All ${others + 1} captions and more` : 'The caption in full and more'
        rest.append(Object.assign(make('summary', '', others > 0 ? `+${others}` : '…'), {title, ariaLabel: title}))
        for (const text of [...card.captions, ...card.more]) rest.append(Object.assign(make('p', '', text), {dir: 'auto'}))
        for (const [by, text] of Object.entries(this.data.like)) {
            const button = Object.assign(make('button', '', text), {type: 'button'})
            button.addEventListener('click', () => this.tell({like: card.pair_id, by}))
            rest.append(button)
        }
        return rest
    }

    // ---- pictures

    fetchPictures() {
        if (this.gone) return
        let free = AT_ONCE - [...this.pictures.values()].filter(picture => picture === null).length
        for (const {row} of this.cards) {
            if (this.pictures.get(row)) this.show(row)
            else if (free > 0 && !this.pictures.has(row)) {
                free -= 1
                this.fetchPicture(row)
            }
        }
    }

    async fetchPicture(row) {
        this.pictures.set(row, null)
        try {
            const signal = AbortSignal.any([this.stopped.signal, AbortSignal.timeout(PATIENCE)])
            const answer = await ask(`${this.data.prefix}/picture`, {parameters: {audit: this.data.audit, row, small: 1}, signal})
            const url = URL.createObjectURL(await answer.blob())
            this.pictures.set(row, {url, fault: decodeURIComponent(answer.headers.get('X-Fault') ?? '')})
            if (this.gone) URL.revokeObjectURL(url)
            this.fetchPictures()
        } catch {
            this.pictures.delete(row)
            if (!this.gone) this.retrier = setTimeout(() => this.fetchPictures(), POLL)
        }
    }

    show(row) {
        const image = this.nodes.get(row)?.querySelector('img'), {url, fault} = this.pictures.get(row)
        if (!image || image.src) return
        image.src = url
        image.style.visibility = ''
        image.alt = fault ? 'Picture cannot be read' : `Picture: ${(this.byRow.get(row).captions[0] ?? '').slice(0, 120)}`
        const told = this.nodes.get(row).querySelector('.fault')
        told.hidden = !fault
        told.textContent = `Picture cannot be read: ${fault}`
    }

    fullSize({row}) {
        return `${this.data.prefix}/picture?${new URLSearchParams({audit: this.data.audit, row, full: 1})}`
    }

    enlarge(place) {
        const card = this.cards[place], [caption = ''] = card.captions, link = this.pairLink(card, '', 'Open pair')
        this.mark(place)
        if (this.pictures.get(card.row)?.fault) return this.sign('This picture cannot be read.', 'late')
        link.addEventListener('click', event => this.follow(event, card))
        showPicture(this.root, {src: this.fullSize(card), alt: `Picture: ${caption.slice(0, 120)}`, caption}, link)
    }

    forget() {
        for (const [row, picture] of this.pictures) {
            if (this.pictures.size <= HELD) break
            if (this.byRow.has(row) || !picture) continue
            URL.revokeObjectURL(picture.url)
            this.pictures.delete(row)
        }
    }

    // ---- what others do, and what becomes of what is sent

    async poll() {
        try {
            if (!document.hidden && this.root.host.isConnected) {
                const {audit, prefix} = this.data
                const answer = await ask(`${prefix}/changes`, {parameters: {audit, entry: this.entry}, signal: this.stopped.signal})
                const {entry, decided} = await answer.json()
                this.entry = entry
                const own = new Set(this.pending.flatMap(told => told.rows ?? [told.row]))
                for (const [row, decision] of Object.entries(decided)) {
                    if (!own.has(Number(row))) this.stands.set(Number(row), decision)
                }
                this.draw()
            }
        } catch {
            // the next one is near
        }
        if (!this.gone) this.poller = setTimeout(() => this.poll(), POLL)
    }

    sent() {
        this.drawState()
    }

    refused(told) {
        for (const row of told.rows ?? []) this.stands.set(row, this.atDraw.get(row) ?? null)
        this.entry = 0 // what stands is asked for anew
        this.draw()
    }

    // ---- what is on screen

    draw() {
        for (const [row, node] of this.nodes) {
            const decision = this.stands.get(row) ?? null, card = this.byRow.get(row)
            node.className = `card ${decision ?? ''}`
            node.classList.toggle('chosen', this.chosen.has(row))
            node.querySelector('.check').checked = this.chosen.has(row)
            const badge = node.querySelector('.badge')
            badge.className = `badge ${decision ?? ''}`
            badge.textContent = decision ?? card.other
            const tags = this.tags.get(row) ?? [], shown = node.querySelector('.tags')
            if (shown.dataset.told !== tags.join('\n')) {
                shown.dataset.told = tags.join('\n')
                shown.replaceChildren(...tags.map(tag => this.tagNode(card, tag)))
            }
        }
        this.nodes.get(this.cards[this.current]?.row)?.classList.add('current')
        this.drawState()
    }

    tagNode(card, tag) {
        const button = Object.assign(make('button', '', tag), {type: 'button', title: 'Take this tag off'})
        button.addEventListener('click', () => this.putTag([card], tag, false))
        return button
    }

    drawState() {
        const {data, cards} = this, waiting = outbox.waiting.length, stored = this.find('stored'), count = this.chosen.size
        const is = decision => decision ? 1 : 0
        let done = data.decided
        for (const [row, decision] of this.atDraw) done += is(this.stands.get(row)) - is(decision)
        this.find('count').textContent = data.main
            ? `${inWords(done)} of ${inWords(data.total)} decided`
            : `${inWords(cards.length)}${data.total > cards.length ? ` of ${inWords(data.total)}` : ''} pairs`
        Object.assign(this.find('grid').querySelector('progress'), {max: data.total || 1, value: done, hidden: !data.main || count > 0})
        stored.hidden = !outbox.trouble
        stored.classList.toggle('trouble', Boolean(outbox.trouble))
        stored.textContent = `${inWords(waiting)} kept here (${outbox.trouble}), tried again`
        this.find('bulk').hidden = !count
        this.find('bulk').querySelector('b').textContent = `${inWords(count)} selected`
        this.find('turn').hidden = data.pages < 2
        this.find('place').textContent = `${inWords(data.page)} / ${inWords(data.pages)}`
        this.button('previous').disabled = data.page <= 1
        this.button('next').disabled = data.page >= data.pages
        this.button('undo').hidden = !this.undone().length
        this.root.querySelector('datalist').replaceChildren(...data.tags.map(value => Object.assign(make('option'), {value})))
        const {refusals} = outbox, more = refusals.length > 1 ? ` And ${inWords(refusals.length - 1)} before it.` : ''
        this.find('refused').hidden = !refusals.length
        this.find('refused').textContent = `Not stored: ${refusals.at(-1)}.${more}`
    }

    button(act) {
        return this.root.querySelector(`[data-act=${act}]`)
    }

    sign(text, kind = '') {
        this.signer = shownFor(this.find('sign'), this.signer, text, kind)
    }

    mark(place, {focus = true} = {}) {
        this.current = Math.max(0, Math.min(this.cards.length - 1, place))
        const node = this.nodes.get(this.cards[this.current]?.row)
        if (focus) node?.focus({preventScroll: true})
        const {top, bottom} = node?.getBoundingClientRect() ?? {}
        if (node && (top < 110 || bottom > innerHeight)) node.scrollIntoView({block: 'nearest'})
        this.draw()
    }

    get sizeKey() {
        return `${SIZE}/${this.data.side}`
    }

    resize(side) {
        this.find('cards').style.setProperty('--side', `${side}px`)
        this.root.querySelector('[type=range]').value = side
    }

    // ---- the way out, and back

    remember(row) {
        tried(() => sessionStorage.setItem(SCROLL, JSON.stringify({at: location.href, top: scroller()?.scrollTop, row})))
    }

    restore() {
        this.resize(Number(tried(() => localStorage.getItem(this.sizeKey), 0)) || this.data.side)
        if (!this.data.main) return
        const kept = tried(() => JSON.parse(sessionStorage.getItem(SCROLL)), null)
        const row = this.data.opened ?? kept?.row
        requestAnimationFrame(() => {
            if (kept?.at === location.href) scroller()?.scrollTo(0, kept.top)
            const place = this.cards.findIndex(card => card.row === row)
            if (place >= 0 && (kept?.at === location.href || this.data.opened !== null)) this.mark(place)
        })
    }

    // Open a pair by its link, without loading the page anew; the browser opens another tab.
    follow(event, card) {
        if (event.ctrlKey || event.metaKey) return
        event.preventDefault()
        this.open(card)
    }

    open(card) {
        this.remember(card.row)
        this.tell({open: card.pair_id})
    }

    // Turn the page once all that was pressed is stored: what "undecided" shows next depends on it.
    async turn(by) {
        const {page, pages, undecided} = this.data
        const again = undecided && by > 0 && this.cards.some(card => this.stands.get(card.row))
        const there = again ? page : page + by
        if (there < 1 || there > pages) return this.sign(by > 0 ? 'This is the last page.' : 'This is the first page.')
        const began = Date.now()
        outbox.schedule(0)
        while (this.pending.length && Date.now() - began < PATIENT) await new Promise(go => setTimeout(go, 20))
        this.tell({page: there})
    }

    // ---- what a person does

    listen() {
        const {signal} = this.stopped, on = (node, name, what) => node.addEventListener(name, what, {signal})
        addEventListener('keydown', event => this.key(event), {capture: true, signal})
        on(this.root, 'click', event => this.click(event))
        on(this.find('refused'), 'click', () => { outbox.refusals = []; this.drawState() })
        const size = this.root.querySelector('[type=range]')
        on(size, 'input', () => { this.resize(size.value); tried(() => localStorage.setItem(this.sizeKey, size.value)) })
        on(this.find('tagging'), 'submit', event => {
            event.preventDefault()
            const box = this.root.querySelector('[name=tag]')
            if (box.value.trim()) this.putTag([...this.chosen.values()], box.value.trim(), true)
            box.value = ''
            box.blur()
        })
    }

    click(event) {
        const act = event.target.closest('[data-act]')?.dataset.act
        if (act) return this.act(act)
        const node = event.target.closest('.card')
        if (!node || event.target.closest('details, .tags')) return
        const place = this.cards.findIndex(card => String(card.row) === node.dataset.row)
        if (event.shiftKey) {
            event.preventDefault()
            this.choose(this.from < 0 ? place : this.from, place, true)
        } else if (event.target.closest('.check')) {
            this.choose(place, place, !this.chosen.has(this.cards[place].row))
            this.from = place
        } else if (event.target.closest('.picture')) {
            if (event.ctrlKey || event.metaKey) return
            event.preventDefault()
            return this.enlarge(place)
        } else if (event.target.closest('.caption')) return this.follow(event, this.cards[place])
        else this.from = place
        this.mark(place)
    }

    choose(from, to, on) {
        for (let place = Math.min(from, to); place <= Math.max(from, to); place += 1) {
            const card = this.cards[place]
            if (on) this.chosen.set(card.row, card)
            else this.chosen.delete(card.row)
        }
        this.draw()
    }

    key(event) {
        if (!this.root.host.isConnected) return
        const [target] = event.composedPath(), key = event.key.toLowerCase(), own = this.root.contains(target)
        if (key === 'escape' && own && target.name === 'tag') return target.blur()
        if (!own && !this.data.main) return
        if (target.closest?.('textarea, select, [contenteditable], [role=dialog], input:not([type=checkbox])')) return
        if (event.altKey || (event.ctrlKey || event.metaKey) && key !== 'a') return
        const free = !target.closest?.(INTERACTIVE) || target.closest('.card') && !target.closest('button, summary')
        const moves = key in ARROWS || [' ', 'enter', 'a'].includes(key)
        if (moves && !free || key === 'a' && !event.ctrlKey && !event.metaKey) return
        if (!moves && !['k', 'x', 'u', 't', 'escape'].includes(key)) return
        if (key === 'escape' && !this.chosen.size) return
        if (key in ARROWS) this.move(ARROWS[key], event.shiftKey)
        else if (!event.repeat) this.press(key)
        event.preventDefault()
        event.stopPropagation()
    }

    press(key) {
        const card = this.cards[this.current]
        if (key in DECISIONS) this.act(DECISIONS[key])
        else if (key === 'u') this.act('undo')
        else if (key === 'a') this.act('page')
        else if (key === 'escape') this.act('none')
        else if (!card && !this.chosen.size) this.sign('Mark a pair first: with an arrow key.', 'late')
        else if (key === 'enter') this.enlarge(this.current)
        else if (key === ' ') {
            this.choose(this.current, this.current, !this.chosen.has(card.row))
            this.from = this.current
        } else if (key === 't') {
            if (!this.chosen.size) this.choose(this.current, this.current, true)
            this.root.querySelector('[name=tag]').focus()
        }
    }

    move(by, selects) {
        if (this.current < 0) return this.mark(0)
        const there = this.current + (Number.isFinite(by) ? by : Math.sign(by) * this.across())
        if (there < 0 || there >= this.cards.length) {
            if (selects || !Number.isFinite(by)) return
            this.byKey = true
            this.turn(by)
            return
        }
        if (selects) this.choose(this.from < 0 ? this.from = this.current : this.from, there, true)
        else this.from = there
        this.mark(there)
    }

    across() {
        if (this.data.layout === 'table') return 1
        return getComputedStyle(this.find('cards')).gridTemplateColumns.split(' ').length
    }

    act(name) {
        if (name === 'page') this.choose(0, this.cards.length - 1, true)
        else if (name === 'none') { this.chosen.clear(); this.draw() }
        else if (name === 'undo') this.undo()
        else if (name === 'previous') this.turn(-1)
        else if (name === 'next') this.turn(1)
        else this.decide(name)
    }

    decide(kind) {
        const chosen = [...this.chosen.values()], one = this.cards[this.current]
        if (!chosen.length && !one) return this.sign('Mark a pair first: with an arrow key or a click beside its picture.', 'late')
        if (!chosen.length && !this.pictures.get(one.row)) return this.sign('Not taken: the picture is not there yet.', 'late')
        const decision = kind === 'undecide' ? null : kind, cards = chosen.length ? chosen : [one]
        const group = this.events(cards, {kind, shows: decision})
        this.undoable.push({audit: this.data.audit, group})
        this.undoable = this.undoable.slice(-HELD)
        this.keepUndoable()
        this.sign(`${decision ?? 'undecided'}: ${cards.length === 1 ? '1 pair' : `${inWords(cards.length)} pairs`} ✓`, decision ?? '')
        this.chosen.clear()
        if (!chosen.length && this.current < this.cards.length - 1) this.mark(this.current + 1)
        else this.draw()
    }

    // Put one event for some pairs, several where they are many, and return what undoes them.
    events(cards, what) {
        const {prefix, audit, dataset} = this.data, group = []
        for (let start = 0; start < cards.length; start += EVENT) {
            const part = cards.slice(start, start + EVENT), [first, ...others] = part, rows = part.map(card => card.row)
            const told = outbox.put({
                prefix, audit, dataset, rows, captions: [], row: first.row, pair_id: first.pair_id, judged: first.judged,
                others: others.map(card => [card.pair_id, card.judged]), ...what,
            })
            const {client, number} = told
            group.push({client, number, pair_id: first.pair_id, before: rows.map(row => [row, this.stands.get(row) ?? null])})
            if ('shows' in what) for (const row of rows) this.stands.set(row, what.shows)
        }
        return group
    }

    putTag(cards, tag, on) {
        this.events(cards, {kind: on ? 'tag' : 'untag', tag})
        for (const {row} of cards) {
            const others = (this.tags.get(row) ?? []).filter(each => each !== tag)
            this.tags.set(row, on ? [...others, tag] : others)
        }
        if (on && !this.data.tags.includes(tag)) this.data.tags.push(tag)
        this.sign(`${on ? 'Tagged' : 'Tag taken off'}: ${cards.length === 1 ? '1 pair' : `${inWords(cards.length)} pairs`} ✓`)
        this.draw()
    }

    undone() {
        return this.undoable.filter(each => each.audit === this.data.audit)
    }

    keepUndoable() {
        tried(() => sessionStorage.setItem(UNDOABLE, JSON.stringify(this.undoable)))
    }

    undo() {
        const last = this.undone().at(-1)
        if (!last) return this.sign('Nothing was decided here that could be undone.')
        this.undoable = this.undoable.filter(each => each !== last)
        this.keepUndoable()
        const {prefix, audit, dataset} = this.data, rows = last.group.flatMap(({before}) => before.map(([row]) => row))
        for (const {client, number, pair_id, before} of last.group) {
            const [[row, shows]] = before
            outbox.put({prefix, audit, dataset, kind: 'undo', undoes: [client, number], pair_id, row, shows, rows: before.map(([each]) => each)})
            for (const [each, decision] of before) this.stands.set(each, decision)
        }
        this.sign(`Undone: ${rows.length === 1 ? '1 pair' : `${inWords(rows.length)} pairs`}.`)
        const place = rows.length === 1 ? this.cards.findIndex(card => card.row === rows[0]) : -1
        if (place >= 0) this.mark(place)
        else this.draw()
    }
}

const grids = new WeakMap()

// Streamlit calls this again whenever the page's script has run, and the last answer's function when the page is left.
export default function (component) {
    const {data, parentElement} = component
    let grid = grids.get(parentElement)
    if (!grid || grid.gone || grid.data.audit !== data.audit) {
        grid?.stop()
        grids.set(parentElement, grid = new Grid(parentElement, data))
    } else if (JSON.stringify(grid.told ?? grid.data) !== JSON.stringify(data)) grid.take(data)
    grid.tell = what => component.setTriggerValue('act', what)
    grid.told = JSON.parse(JSON.stringify(data))
    return () => grids.get(parentElement).stop()
}
