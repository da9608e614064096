// Review mode: shows one pair after another and takes a decision for each key.
//
// A key decides on the pair that is painted at that moment and on no other: one that comes before is refused, visibly.
// All that others wrote reaches the page as text content. Captions are told by the key that the server gave with them.
// What this begins with is in review_outbox.js.

const UNDOABLE = 'clipmem-review-undoable'
const AHEAD = 20, FETCHED = 40, BEHIND = 3, HELD = 200 // pairs
const PICTURES = 3 // at once
const POLL = 1000, REST = 300 // milliseconds
const LATE = 'Not taken: no pair was on screen yet.'
const justMarked = decision => `Just marked ${decision ? decision[0].toUpperCase() + decision.slice(1) : 'undecided'}`

class View {
    constructor(root, data) {
        Object.assign(this, {root, data, rows: [], place: 0, shown: null, painted: Infinity, editing: false, entry: 0})
        Object.assign(this, {path: location.pathname, choices: []})
        this.count = 0 // pairs of the queue that are decided
        this.stands = new Map() // row → what is decided, by this page or as the server said last
        this.visited = new Set() // rows that were decided here: "Undecided only" does not hide them from the arrows
        this.cards = new Map()
        this.pictures = new Map() // row → {image, fault}; null: on its way
        this.suggestions = new Map()
        this.undoable = tried(() => JSON.parse(sessionStorage.getItem(this.undoableKey)), null) ?? []
        this.stopped = new AbortController()
        this.find = name => root.querySelector(`.${name}`)
        this.listen()
        this.drawRefusals()
        outbox.listeners.add(this)
        this.open()
    }

    get undoableKey() {
        return `${UNDOABLE}/${this.data.audit}`
    }

    get pending() {
        return outbox.waiting.filter(told => told.audit === this.data.audit)
    }

    stop() {
        this.stopped.abort()
        outbox.listeners.delete(this)
        for (const timer of [this.poller, this.opener, this.rester, this.retrier, this.signer]) clearTimeout(timer)
        for (const picture of this.pictures.values()) if (picture?.url) URL.revokeObjectURL(picture.url)
    }

    get gone() {
        return this.stopped.signal.aborted
    }

    ask(name, parameters = {}) {
        const {prefix, audit, selection} = this.data
        const all = {...selection, audit, ...parameters}
        return ask(`${prefix}/${name}`, {parameters: all, signal: AbortSignal.any([this.stopped.signal, AbortSignal.timeout(PATIENCE)])})
    }

    // ---- the queue

    async open() {
        this.waits('Opening…')
        try {
            const pair = new URLSearchParams(location.search).get('pair') ?? ''
            const {rows, first, entry, decided, status} = await (await this.ask('queue', {pair})).json()
            Object.assign(this, {rows, first, entry})
            this.at = new Map(rows.map((row, place) => [row, place]))
            for (const [row, decision] of Object.entries(decided)) this.stand(Number(row), decision)
            this.says(status)
        } catch (error) {
            if (this.gone) return
            this.waits(`This queue cannot be opened: ${error.message}. Tried again.`)
            this.opener = setTimeout(() => this.open(), 2000)
            return
        }
        outbox.adopt(this.data.dataset)
        for (const told of this.pending) this.stand(told.row, told.shows)
        this.find('undecided').checked = this.data.undecided
        this.poller = setTimeout(() => this.poll(), POLL)
        if (this.at.has(this.first)) this.go(this.at.get(this.first))
        else this.begin()
    }

    stand(row, decision) {
        if (this.at.has(row)) this.count += Boolean(decision) - Boolean(this.stands.get(row))
        this.stands.set(row, decision)
    }

    says(status) {
        this.find('status').hidden = !status
        this.find('status').textContent = status ?? ''
    }

    get undecided() {
        return this.find('undecided').checked
    }

    passes(place, but = new Set()) {
        const row = this.rows[place]
        return this.undecided && Boolean(this.stands.get(row)) && !but.has(row)
    }

    // The place after one, from the top again where only undecided pairs are shown; the end where there is none.
    next(place) {
        const count = this.rows.length
        for (let step = 1; step <= count; step += 1) {
            const there = place + step
            if (there >= count && !this.undecided) return count
            if (!this.passes(there % count)) return there % count
        }
        return count
    }

    begin() {
        this.go(this.passes(0) ? this.next(-1) : 0)
    }

    go(place) {
        this.place = place
        this.editing = false
        this.draw()
    }

    step(by) {
        let place = this.place + by
        while (place >= 0 && place < this.rows.length && this.passes(place, this.visited)) place += by
        if (place < 0) this.sign('This is the first pair.')
        else this.go(Math.min(place, this.rows.length))
    }

    // ---- what is fetched before it is needed

    // The rows to be shown next, the one on screen first.
    wanted(count) {
        const rows = this.place < this.rows.length ? [this.rows[this.place]] : []
        for (let place = this.place; rows.length <= count;) {
            place = this.next(place)
            if (place >= this.rows.length || rows.includes(this.rows[place])) break
            rows.push(this.rows[place])
        }
        return [...rows, ...this.rows.slice(Math.max(0, this.place - BEHIND), this.place)]
    }

    fetchAhead() {
        const wanted = this.wanted(FETCHED), near = wanted.slice(0, AHEAD + 1)
        if (near.some(row => !this.cards.has(row))) this.fetchCards(wanted.filter(row => !this.cards.has(row)))
        let free = PICTURES - [...this.pictures.values()].filter(picture => picture === null).length
        for (const row of near) {
            if (free <= 0) break
            if (this.pictures.has(row)) continue
            this.fetchPicture(row)
            free -= 1
        }
        this.forget(wanted)
    }

    forget(wanted) {
        for (const row of this.pictures.keys()) {
            if (this.pictures.size <= HELD) break
            if (wanted.includes(row) || !this.pictures.get(row)) continue
            URL.revokeObjectURL(this.pictures.get(row).url)
            for (const held of [this.pictures, this.cards, this.suggestions]) held.delete(row)
        }
    }

    async fetchCards(rows, {again = false} = {}) {
        if (this.fetching && !again) return
        if (!again) this.fetching = true
        try {
            const found = await (await this.ask('pairs', {rows: rows.slice(0, 2 * FETCHED).join()})).json()
            for (const card of found) this.cards.set(card.row, card)
            this.failure = ''
        } catch (error) {
            this.fails(error)
        }
        if (!again) this.fetching = false
        if (!this.gone) this.draw()
    }

    async fetchPicture(row) {
        this.pictures.set(row, null)
        try {
            const answer = await this.ask('picture', {row})
            const url = URL.createObjectURL(await answer.blob()), image = new Image()
            image.src = url
            const broken = await image.decode().then(() => '', () => 'the browser cannot show it')
            this.pictures.set(row, {url, image, fault: broken || decodeURIComponent(answer.headers.get('X-Fault') ?? '')})
            this.failure = ''
            if (this.gone) URL.revokeObjectURL(url)
        } catch (error) {
            this.pictures.delete(row)
            this.fails(error)
            return
        }
        if (this.gone) return
        if (row === this.rows[this.place]) this.draw()
        else this.fetchAhead()
    }

    fails(error) {
        if (this.gone) return
        this.failure = error.message
        clearTimeout(this.retrier)
        this.retrier = setTimeout(() => this.draw(), POLL)
        if (!this.shown) this.waits(this.why)
    }

    // Suggestions cost the server a search: they are asked for where a person rests, one pair after the other.
    async suggest() {
        if (this.gone || this.searching) return
        const row = this.wanted(3).slice(0, 4).find(each => !this.suggestions.has(each))
        if (row === undefined) return
        this.searching = true
        try {
            this.suggestions.set(row, await (await this.ask('suggestions', {row})).json())
        } catch {
            // asked again in a while
        }
        this.searching = false
        if (this.gone) return
        if (row === this.shown?.row) this.drawSuggestions()
        this.rester = setTimeout(() => this.suggest(), this.suggestions.has(row) ? 0 : POLL)
    }

    // A later poll takes the place of one that is not answered yet, whose answer may be older than what was stored since.
    async poll() {
        clearTimeout(this.poller)
        const own = this.polled = {}
        try {
            if (!document.hidden && this.root.host.isConnected) {
                const {entry, decided, status} = await (await this.ask('changes', {entry: this.entry})).json()
                if (this.polled !== own) return
                this.entry = entry
                this.says(status)
                this.hear(decided)
            }
        } catch {
            // the next one is a second away, and what is pressed meanwhile says by itself that it is not stored
        }
        if (this.gone || this.polled !== own) return
        this.polled = null
        this.poller = setTimeout(() => this.poll(), POLL)
    }

    // Take over what others decided; where something of one's own is on its way, that comes after it.
    hear(decided) {
        const own = new Set(this.pending.map(told => told.row)), changed = []
        for (const [key, decision] of Object.entries(decided)) {
            const row = Number(key)
            if (own.has(row) || (this.stands.get(row) ?? null) === decision) continue
            this.stand(row, decision)
            if (this.cards.has(row)) changed.push(row)
            if (row === this.shown?.row) this.sign(this.shown.news = `${justMarked(decision)} in another tab.`, 'late')
        }
        if (changed.length) this.fetchCards(changed, {again: true})
        this.drawState()
    }

    sent() {
        this.drawState()
        if (this.at && (this.polled || !outbox.waiting.length)) this.poll() // the line follows what was just stored
    }

    drawRefusals() {
        const {refusals} = outbox, more = refusals.length > 1 ? ` And ${inWords(refusals.length - 1)} before it.` : ''
        this.find('refused').hidden = !refusals.length
        this.find('refused').textContent = `Not saved: ${refusals.at(-1)}.${more}`
    }

    refused(told) {
        this.drawRefusals()
        if (told.audit !== this.data.audit) return
        this.undoable = this.undoable.filter(({client, number}) => client !== told.client || number !== told.number)
        this.ask('pairs', {rows: told.row}).then(answer => answer.json()).then(([card]) => {
            this.cards.set(card.row, card)
            this.stand(card.row, card.decision)
            this.drawState()
        }).catch(() => {})
    }

    // ---- what is on screen

    waits(why) {
        this.why = why
        this.shown = null
        this.choices = []
        this.painted = Infinity
        delete this.find('pair').dataset.pair
        this.find('pair').hidden = true
        this.find('wait').hidden = false
        this.find('wait').textContent = this.failure ? `${why} (${this.failure}: tried again)` : why
    }

    draw() {
        if (this.gone) return
        const row = this.rows[this.place], card = this.cards.get(row), picture = this.pictures.get(row)
        if (this.place >= this.rows.length) {
            this.name('')
            this.waits(this.undecided ? 'No undecided pair is left here.' : 'That was the last pair.')
        }
        else if (!card || !picture) this.waits('The pair is on its way…')
        else if (this.shown?.row !== row) this.fill(row, card, picture)
        this.drawState()
        this.fetchAhead()
    }

    // Name a pair in the address, so that a reload, a way back and a link lead to it. Some browsers limit how often.
    name(pair) {
        if (location.pathname !== this.path) return
        const url = new URL(location)
        if (pair) url.searchParams.set('pair', pair)
        else url.searchParams.delete('pair')
        tried(() => history.replaceState(history.state, '', url))
    }

    fill(row, card, {image, fault}) {
        this.shown = {row, card, focus: null, news: ''}
        this.name(card.pair_id)
        this.find('pair').hidden = false
        this.find('wait').hidden = true
        image.alt = fault ? 'Picture cannot be read' : `Picture: ${(card.captions[0] ?? '').slice(0, 120)}`
        image.style.maxWidth = `${4 * image.naturalWidth}px`
        image.style.maxHeight = `${4 * image.naturalHeight}px`
        this.find('picture').replaceChildren(image)
        this.find('fault').hidden = !fault
        this.find('fault').textContent = `Picture cannot be read: ${fault}`
        this.find('captions').replaceChildren(...this.lines(card.captions))
        this.find('captions').classList.toggle('several', card.captions.length > 1)
        this.find('label').textContent = card.label
        this.find('score').textContent = card.score
        this.find('id').textContent = `id: ${card.pair_id}`
        for (const part of ['said', 'suggested']) this.find(part).scrollTop = 0
        this.find('pair').dataset.pair = card.pair_id
        this.drawSuggestions()
        this.painted = Infinity
        requestAnimationFrame(() => setTimeout(() => {
            if (this.shown?.row === row) this.painted = performance.now()
        }))
        clearTimeout(this.rester)
        this.rester = setTimeout(() => this.suggest(), REST)
    }

    lines(texts) {
        return texts.map(text => Object.assign(document.createElement('li'), {textContent: text, dir: 'auto'}))
    }

    drawState() {
        const waiting = outbox.waiting.length, count = this.rows.length, stored = this.find('stored')
        const place = this.place < count ? `${inWords(this.place + 1)} of ${inWords(count)}` : inWords(count)
        this.find('place').textContent = count ? `${place}${this.data.title ? `, ${this.data.title.toLowerCase()}` : ''}` : ''
        stored.classList.toggle('trouble', Boolean(outbox.trouble))
        const sending = waiting ? `${inWords(waiting)} being sent` : 'saved'
        const kept = `${inWords(waiting)} kept here (${outbox.trouble}), tried again`
        stored.textContent = `${inWords(this.count)} decided, ${outbox.trouble && waiting ? kept : outbox.trouble || sending}`
        const decision = this.stands.get(this.rows[this.place]), card = this.shown?.card
        this.find('badge').className = `badge ${decision ?? ''}`
        this.find('badge').textContent = decision ?? 'undecided'
        const given = decision === 'recaption' && card ? this.cards.get(card.row)?.recaptioned ?? [] : []
        this.find('recaptioned').replaceChildren(...this.lines(given))
        const note = card && this.cards.get(card.row)?.note
        this.find('note').hidden = !note
        this.find('note').textContent = `note: ${note}`
        this.find('edit').hidden = !this.editing
        // A box that is hidden keeps the focus until the next frame, and with it a key that comes before.
        if (!this.editing) this.root.querySelector('textarea').blur()
    }

    // The place of the caption in focus: the one chosen, else the one that fits worst.
    get focused() {
        const fits = this.suggestions.get(this.shown.row)?.own ?? []
        const worst = fits.reduce((at, fit, place) => (fit ?? Infinity) < (fits[at] ?? Infinity) ? place : at, 0)
        return this.shown.focus ?? worst
    }

    // Draw suggestions for the caption in focus: those that fit better than it.
    drawSuggestions() {
        const found = this.suggestions.get(this.shown.row), heading = this.find('heading'), focus = this.focused
        const fit = found?.own?.[focus] ?? null, inFigures = value => value.toFixed(2).replace('-', '−')
        this.choices = (found?.choices ?? []).filter(choice => choice.cosine > (fit ?? -Infinity))
        for (const [place, line] of [...this.find('captions').children].entries()) {
            line.classList.toggle('focus', place === focus)
        }
        heading.textContent = 'Suggested by models that never saw it'
        if (!found) heading.textContent += ' …'
        else if (found.fault) heading.textContent = `No suggestion: ${found.fault}`
        else if (!found.members) heading.textContent = 'No suggestion: every model saw this pair.'
        else if (!this.choices.length) heading.textContent = 'No suggestion: none is likely enough to be right.'
        else if (fit !== null) heading.textContent += ` (fit of the caption: ${inFigures(fit)})`
        this.find('quality').textContent = this.choices.length ? found.quality : ''
        this.root.querySelector('ol').replaceChildren(...this.choices.map(({caption, cosine}, place) => {
            const make = (name, text) => Object.assign(document.createElement(name), {textContent: text, dir: 'auto'})
            const button = Object.assign(document.createElement('button'), {type: 'button'})
            button.dataset.key = place + 1
            button.append(make('kbd', place + 1), make('span', caption), make('i', inFigures(cosine)))
            const item = document.createElement('li')
            item.append(button)
            return item
        }))
    }

    // Move the focus to another caption of the pair, round at the ends.
    focusOn(place) {
        const {card} = this.shown, count = card.captions.length
        this.shown.focus = (place + count) % count
        this.drawSuggestions()
    }

    sign(text, kind = '') {
        this.signer = shownFor(this.find('sign'), this.signer, text, kind)
    }

    // ---- what a person does

    listen() {
        const {signal} = this.stopped
        addEventListener('keydown', event => this.key(event), {capture: true, signal})
        this.root.addEventListener('click', event => {
            const key = event.target.closest('[data-key]')?.dataset.key
            if (key) this.act(key, event)
        }, {signal})
        this.find('undecided').addEventListener('change', () => {
            if (this.place < this.rows.length) this.draw()
            else this.begin()
        }, {signal})
        this.find('refused').addEventListener('click', () => {
            outbox.refusals = []
            this.drawRefusals()
        }, {signal})
        this.find('captions').addEventListener('click', event => {
            const place = [...this.find('captions').children].indexOf(event.target.closest('li'))
            if (place >= 0) this.focusOn(place)
        }, {signal})
        this.find('cancel').addEventListener('click', () => this.cancel(), {signal})
        this.find('edit').addEventListener('submit', event => { event.preventDefault(); this.recaption(event) }, {signal})
    }

    key(event) {
        if (!this.root.host.isConnected) return
        const [target] = event.composedPath(), key = event.key.toLowerCase()
        const own = this.editing && this.root.contains(target)
        if (own && key === 'escape') this.cancel()
        else if (own && key === 'enter' && (event.ctrlKey || event.metaKey)) this.recaption(event)
        else if (target.closest?.('textarea, select, [contenteditable], [role=dialog], input:not([type=checkbox])')) return
        else if (event.ctrlKey || event.metaKey || event.altKey) return
        else if (!['k', 'x', 'e', 'u', '1', '2', '3', 'arrowleft', 'arrowright', ...this.moves].includes(key)) return
        else if (!event.repeat || key.startsWith('arrow')) this.act(key, event)
        event.preventDefault()
        event.stopPropagation()
    }

    // Up and down move the focus where a pair has several captions, and scroll the page elsewhere.
    get moves() {
        return this.shown?.card.captions.length > 1 ? ['arrowup', 'arrowdown'] : []
    }

    act(key, event) {
        if (key === 'k') this.decide('keep', [], event)
        else if (key === 'x') this.decide('remove', [], event)
        else if (key === 'u') this.undo()
        else if (key === 'arrowleft') this.step(-1)
        else if (key === 'arrowright') this.step(1)
        else if (this.moves.includes(key)) this.focusOn(this.focused + (key === 'arrowup' ? -1 : 1))
        else if (key === 'e') this.edit(event)
        else this.take(Number(key), event)
    }

    // Whether a press is meant for the pair on screen: it came after that was painted.
    takes(event) {
        const meant = this.shown !== null && event.timeStamp >= this.painted
        if (!meant) this.sign(LATE, 'late')
        return meant
    }

    // What the server is told of what was decided before: it refuses to replace what this page has not heard of.
    decide(kind, captions, event) {
        if (!this.takes(event)) return
        const {row, card, news} = this.shown, {prefix, audit, dataset} = this.data
        this.shown.news = ''
        if (news) return this.sign(`${news} Press again to replace that.`, 'late')
        const before = this.stands.get(row) ?? null, recaptioned = this.cards.get(row)?.recaptioned ?? []
        const told = outbox.put({
            prefix, audit, dataset, row, kind, captions, shows: kind, pair_id: card.pair_id, judged: card.judged,
            seen: before === 'recaption' ? [before, ...recaptioned] : before ? [before] : [],
        })
        this.undoable.push({client: told.client, number: told.number, row, pair_id: card.pair_id, before, recaptioned})
        this.decided(row, kind, captions)
        this.sign(`${kind} ✓`, kind)
        this.go(this.next(this.place))
    }

    decided(row, decision, captions) {
        this.stand(row, decision)
        this.visited.add(row)
        if (this.cards.has(row)) this.cards.get(row).recaptioned = captions
        this.undoable = this.undoable.slice(-HELD)
        tried(() => sessionStorage.setItem(this.undoableKey, JSON.stringify(this.undoable)))
    }

    undo() {
        const last = this.undoable.pop()
        if (!last) return this.sign('Nothing was decided here that could be undone.')
        const {prefix, audit, dataset} = this.data, {row, pair_id, client, number, before, recaptioned} = last
        outbox.put({prefix, audit, dataset, row, pair_id, kind: 'undo', undoes: [client, number], shows: before})
        this.decided(row, before, recaptioned)
        this.sign('Undone.')
        if (this.at.has(row)) this.go(this.at.get(row))
    }

    // The captions that the pair on screen has by what was decided.
    get standing() {
        const {row, card} = this.shown
        return this.stands.get(row) === 'recaption' ? this.cards.get(row).recaptioned : card.captions
    }

    // Open a suggestion in the editor, in the place of the caption in focus.
    take(number, event) {
        const choice = this.choices[number - 1]
        if (!choice) return this.sign('There is no such suggestion.', 'late')
        const captions = [...this.standing]
        captions[Math.min(this.focused, captions.length - 1)] = choice.caption
        this.edit(event, captions)
    }

    edit(event, captions) {
        if (!this.takes(event)) return
        const {standing, shown: {card}} = this, box = this.root.querySelector('textarea')
        box.value = this.asLines(captions ?? standing)
        this.given = [standing, card.captions].map(this.asLines)
        this.editing = true
        this.drawState()
        box.focus()
    }

    asLines(captions) {
        return captions.map(text => text.split(/\s+/).join(' ').trim()).join('\n')
    }

    cancel() {
        this.editing = false
        this.drawState()
    }

    recaption(event) {
        const lines = this.root.querySelector('textarea').value.split('\n').map(line => line.trim()).filter(Boolean)
        if (!lines.length) this.sign('Not saved: write at least one caption.', 'late')
        else if (this.given.includes(lines.join('\n'))) this.sign('Not saved: these are the captions it has. Change them, or cancel.', 'late')
        else this.decide('recaption', lines, event)
    }
}

const views = new WeakMap()

// Streamlit calls this again whenever the page's script has run, and the last answer's function when the page is left.
export default function ({data, parentElement}) {
    const before = views.get(parentElement)
    if (JSON.stringify(before?.data) !== JSON.stringify(data) || before.gone) {
        before?.stop()
        views.set(parentElement, new View(parentElement, data))
    }
    return () => views.get(parentElement).stop()
}
