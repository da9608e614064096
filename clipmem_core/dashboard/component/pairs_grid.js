// Pairs side by side, or as rows of a table: selected and decided with the mouse or with keys.

const SIZE = 'clipmem-size'
const TURN = 1500 // milliseconds: a page turns once its decisions are stored, or after this time
const ARROWS = {arrowleft: -1, arrowright: 1, arrowup: -Infinity, arrowdown: Infinity}
const INTERACTIVE = 'button, a, input, [role=slider], [role=radio], [role=tab], [role=option], [role=switch]'
const selectedIn = {} // conditions of a view → its selected pairs, row → card, across pages

// Go to a page of the app, by default this one with some parameters changed, as the back button does: without loading the app.
function visit(parameters, page = location.pathname, kept = new URLSearchParams(location.search)) {
    for (const [name, value] of Object.entries(parameters)) value ? kept.set(name, value) : kept.delete(name)
    history.pushState(null, '', `${page}?${kept}`)
    dispatchEvent(new PopStateEvent('popstate'))
}

class Grid extends Pairs {
    constructor(root, data) {
        super(root, data)
        Object.assign(this, {current: -1, from: -1, nodes: new Map(), size: {small: 1}})
        this.cardOf = row => this.byRow.get(row) ?? {captions: []}
        const slider = root.querySelector('[type=range]')
        const key = `${SIZE}/${data.side}`, resize = () => this.find('cards').style.setProperty('--side', `${slider.value}px`)
        this.on(slider, 'input', () => {
            resize()
            tried(() => localStorage.setItem(key, slider.value))
        })
        slider.value = tried(() => localStorage.getItem(key)) ?? data.side
        resize()
        this.update(data)
        this.adopt()
        this.draw()
        if (data.main) requestAnimationFrame(() => this.isStopped || this.markOpened())
    }

    get selected() {
        return selectedIn[this.data.view] ??= new Map()
    }

    // Show the data of the page's last run: other pairs, or the same ones with other decisions.
    update(data) {
        const before = this.data, rows = ({cards}) => cards.map(({row}) => row).join()
        const moved = !this.nodes.size || rows(before) !== rows(data)
        const unsent = new Set(this.pending.flatMap(event => event.rows))
        this.data = data
        this.addEvents(data)
        this.byRow = new Map(data.cards.map(card => [card.row, card]))
        this.changed = new Set(data.cards.filter(({changed}) => changed).map(({row}) => row))
        for (const card of data.cards) {
            card.shown = [...card.captions.slice(card.first), ...card.captions.slice(0, card.first)]
            if (!unsent.has(card.row) && (moved || data.entry >= this.entry))
                this.set(card.row, card.decision, card.changed ? card.captions : [])
            if (this.selected.has(card.row)) this.selected.set(card.row, card)
        }
        this.entry = Math.max(this.entry, data.entry)
        if (moved) this.current = this.from = -1
        if (before.view !== data.view) this.all = false
        this.build(before.page !== data.page)
        this.draw()
    }

    reload = () => this.trigger({reload: true}) // runs the page's script again

    build(turned) {
        const {cards, table, scores, order} = this.data, box = this.find('cards'), inOrder = name => name === order ? 'order' : ''
        const names = scores.map(([name, label]) => button(() => this.sort(name), label, {className: inOrder(name)}))
        const head = make('div.head', make('span'), make('span'), make('span', 'caption'), make('span', 'decision'), ...names)
        box.classList.toggle('table', table)
        box.style.setProperty('--scores', scores.length)
        this.nodes = new Map(cards.map((card, place) => [card.row, this.node(card, place)]))
        box.replaceChildren(...(table ? [head] : []), ...this.nodes.values())
        for (const {row} of cards) if (this.loaded.get(row)) this.showLoaded(row)
        if (turned) document.querySelector('[data-testid=stMain]').scrollTo(0, 0)
        if (turned) this.mark(0)
    }

    node(card, place) {
        const {audit, scores, order} = this.data, {caption} = card
        const href = `pair?${this.data.address}&pair=${encodeURIComponent(card.pair_id)}`
        const text = caption ? marked(caption, card.caption_marks) : ['(no caption)']
        const link = make('a.caption', {href, dir: 'auto', tabIndex: -1}, ...text)
        const similar = ['picture', 'caption'].map(by =>
            button(() => visit({like: card.pair_id, by}, 'browse', new URLSearchParams({audit})), `Like ${by}`))
        const lines = scores.map(([name, label], at) =>
            make(name === order ? 'div.order' : 'div', make('dt', label), make('dd', card.scores[at])))
        const texts = make('div.texts', link, make('p.fault'),
            ...card.notes.map(text => foreign('p.about', text)), make('p.similar', ...similar))
        const node = make('article.card', {tabIndex: -1},
            make('a.picture', {href, ariaLabel: 'Open pair', tabIndex: place ? -1 : 0}),
            make('input.check', {type: 'checkbox', tabIndex: -1, ariaLabel: `Select this pair: ${caption.slice(0, 80)}`}),
            make('div.words', texts, make('span.badge'), make('dl.scores', ...lines)))
        node.dataset.row = card.row
        return node
    }

    showLoaded(row) {
        const {image, fault} = this.loaded.get(row), node = this.nodes.get(row)
        node?.querySelector('.picture').replaceChildren(image)
        if (fault) node?.querySelector('.fault').replaceChildren(`Picture cannot be read: ${fault}`)
        this.loadAll([...this.nodes.keys()])
    }

    draw() {
        const {cards} = this.data
        for (const card of cards) {
            const {row} = card, decision = this.decisions.get(row) ?? null, node = this.nodes.get(row)
            const selected = node.querySelector('.check').checked = this.selected.has(row)
            const current = card === cards[this.current]
            const states = {selected, current, dropped: this.isDropped(card)}
            node.className = ['card', decision, ...Object.keys(states).filter(state => states[state])].join(' ')
            const badge = {className: `badge ${decision ?? ''}`, textContent: labelOf(decision) ?? ''}
            Object.assign(node.querySelector('.badge'), badge)
        }
        this.drawState()
        this.loadAll([...this.nodes.keys()])
    }

    drawState() {
        const {cards, decided, main, total} = this.data, {trouble} = this, count = this.selected.size
        const changed = ({row, decision}) => Boolean(this.decisions.get(row)) - Boolean(decision)
        const decidedCount = cards.reduce((sum, card) => sum + changed(card), decided)
        const shown = total > cards.length ? `${inWords(cards.length)} of ${inWords(total)}` : inWords(cards.length)
        const head = main ? `${inWords(decidedCount)} of ${inWords(total)} decided` : `${shown} pairs`
        this.write({count: head, stored: trouble, number: `${this.all ? 'All ' : ''}${inWords(this.all ? total : count)} selected`})
        const buttons = {all: !this.all && main && cards.every(({row}) => this.selected.has(row)), replace: main, page: !count}
        for (const [act, shown] of Object.entries(buttons)) this.root.querySelector(`[data-act=${act}]`).hidden = !shown
        this.root.querySelector('[data-act=all]').textContent = `Select all ${inWords(total)} that match`
        this.find('bulk').hidden = !count
        this.root.querySelector('[data-act=undo]').hidden = !this.lastUndoable
    }

    mark(place) {
        this.current = Math.max(0, Math.min(this.data.cards.length - 1, place))
        this.draw()
        const node = this.find('current')
        node?.focus({preventScroll: true})
        node?.scrollIntoView({block: 'nearest'})
    }

    open({pair_id}) {
        tried(() => sessionStorage.setItem(OPENED, pair_id))
        visit({pair: pair_id}, 'pair', new URLSearchParams(this.data.address))
    }

    // Mark the pair that a person comes back from. The app may build this grid twice, so the pair stays noted.
    markOpened() {
        const opened = tried(() => sessionStorage.getItem(OPENED)), place = this.data.cards.findIndex(({pair_id}) => pair_id === opened)
        if (place >= 0) this.mark(place)
    }

    async sendAll() {
        const began = Date.now()
        outbox.schedule(0)
        while (this.pending.length && Date.now() - began < TURN) await new Promise(go => setTimeout(go, 20))
    }

    // Turn the page once all decisions are stored: they change which undecided pairs come next.
    async turn(by) {
        const {cards, page, pages, undecided} = this.data
        const target = undecided && by > 0 && cards.some(({row}) => this.decisions.get(row)) ? page : page + by
        if (target < 1 || target > pages) return this.sign(by > 0 ? 'This is the last page.' : 'This is the first page.')
        await this.sendAll()
        visit({page: target})
    }

    // Sort by a score, the other way round if it sorts already.
    sort(order) {
        const here = new URLSearchParams(location.search), turns = here.get('order') === order && !here.has('ascending')
        visit({order, ascending: turns && '1', page: ''})
    }

    // With Ctrl the browser opens a link in a new tab.
    click(event) {
        const inside = names => event.target.closest(names), node = inside('.card')
        if (!node || event.ctrlKey || event.metaKey) return
        const place = [...this.nodes.values()].indexOf(node), card = this.data.cards[place]
        if (event.shiftKey || !inside('.check')) event.preventDefault()
        if (event.shiftKey) this.select(this.from < 0 ? place : this.from, place)
        else if (inside('.check')) this.select(this.from = place, place, !this.selected.has(card.row))
        else if (inside('a')) return this.open(card)
        else this.from = place
        this.mark(place)
    }

    select(from, to, on = true) {
        this.all = false
        for (const card of this.data.cards.slice(Math.min(from, to), Math.max(from, to) + 1))
            on ? this.selected.set(card.row, card) : this.selected.delete(card.row)
        this.draw()
    }

    // React to a key and return whether it is one of this grid's.
    pressed(key, event, target) {
        const control = event.ctrlKey || event.metaKey, moves = key in ARROWS || [' ', 'enter', 'a'].includes(key)
        const act = this.actOf(key, event)
        if (control !== (key === 'a') || !this.data.main && !this.root.contains(target)) return false
        const isOurs = !target.closest?.(INTERACTIVE) || target.closest('.card') && !target.closest('button')
        if (moves ? !isOurs : !act || key === 'escape' && !this.selected.size) return false
        const card = this.data.cards[this.current]
        if (key in ARROWS) this.move(ARROWS[key], event.shiftKey)
        else if (event.repeat) return true
        else if (act) this.act(act)
        else if (!card) this.sign('Mark a pair first with an arrow key.', 'late')
        else if (key === 'enter') this.open(card)
        else this.select(this.from = this.current, this.current, !this.selected.has(card.row))
        return true
    }

    move(by, selects) {
        if (this.current < 0) return this.mark(0)
        const columns = this.data.table ? 1 : getComputedStyle(this.find('cards')).gridTemplateColumns.split(' ').length
        const target = this.current + (Number.isFinite(by) ? by : Math.sign(by) * columns)
        if (target < 0 || target >= this.data.cards.length) return Number.isFinite(by) && !selects && this.turn(by)
        if (!selects) this.from = target
        else this.select(this.from < 0 ? this.from = this.current : this.from, target)
        this.mark(target)
    }

    act(name) {
        if (name === 'page') this.select(0, this.data.cards.length - 1)
        else if (name === 'all') this.all = true
        else if (name === 'none') this.unselect()
        else if (name === 'undo') this.undo()
        else if (name === 'replace' || this.all && name !== 'drop') return this.decideAll(name)
        else this.decideShown(name)
        this.draw()
    }

    unselect() {
        this.all = false
        this.selected.clear()
    }

    // Decide on all pairs of the selection, or open the dialog that replaces words in captions: theirs, or those of chosen pairs.
    async decideAll(name) {
        await this.sendAll()
        this.trigger({all: name, total: this.data.total, ids: this.all ? [] : [...this.selected.values()].map(({pair_id}) => pair_id)})
        this.unselect()
        this.draw()
    }

    // Whether the caption that a card shows was removed here.
    isDropped({row, shown}) {
        const changed = this.captions.get(row) ?? []
        return changed.length > 0 && !changed.includes(shown[0])
    }

    decideShown(kind) {
        const selected = [...this.selected.values()], marked = this.data.cards[this.current]
        const cards = selected.length ? selected : [marked], act = kind === 'drop' ? 'remove' : kind
        const label = act === 'undecide' ? 'undecided' : act
        if (kind === 'drop' && selected.length) return this.sign(`X removes one caption; Shift X removes ${counted(this.all ? this.data.total : selected.length)}.`, 'late')
        if (!cards[0]) return this.sign('Mark a pair first with an arrow key or a click on its card.', 'late')
        if (!selected.length && !this.loaded.get(marked.row)) return this.sign('Ignored: the picture has not loaded yet.', 'late')
        const rest = kind === 'drop' && withoutSentence(marked.captions[marked.first], marked.shown[0], marked.marks)
        if (kind === 'drop' && (marked.captions.length > 1 || rest)) {
            if (this.isDropped(marked)) return this.sign('This caption was removed before.', 'late')
            if (!marked.whole) return this.sign('Ignored: open the pair to remove one of such long captions.', 'late')
            const captions = marked.captions.toSpliced(marked.first, 1, ...rest ? [rest] : [])
            this.decide(cards, 'recaption', {captions, expected: this.expected(marked.row)})
            this.sign(`${rest ? 'sentence' : 'caption'} removed ✓`, 'recaption')
        } else {
            this.decide(cards, act)
            this.sign(`${label}: ${counted(cards.length)} ✓`, act)
        }
        this.unselect()
        if (!selected.length && this.current < this.data.cards.length - 1) this.mark(this.current + 1)
    }

    undone(rows) {
        const place = rows.length === 1 ? this.data.cards.findIndex(({row}) => row === rows[0]) : -1
        place >= 0 ? this.mark(place) : this.draw()
    }
}
