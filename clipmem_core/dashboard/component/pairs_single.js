// One pair after another: a key decides on the pair on screen; a key pressed before the pair was painted is ignored, visibly.

const AHEAD = 20 // pairs that are preloaded
const REST = 300 // milliseconds on a pair, or without a key, until the server is asked about it
const ZOOM = 3, CLOSEST = 8 // by the key, and at most
const WORDS = 2 // keys of likelier words; the third is of a suggested caption

const asLines = captions => captions.map(text => text.split(/\s+/).join(' ').trim()).join('\n')

class Single extends Pairs {
    constructor(root, data) {
        super(root, data)
        Object.assign(this, {rows: [], place: 0, editing: false, at: new Map(), suggestions: new Map(), path: location.pathname})
        this.visited = new Set() // rows that were decided here: "Undecided only" does not hide them from the arrows
        Object.assign(this, {box: root.querySelector('textarea'), only: this.find('undecided'), suggested: this.find('suggested')})
        this.only.checked = data.undecided
        root.querySelector('.review').classList.toggle('follows', Boolean(data.follows))
        this.on(this.only, 'change', () => this.place < this.rows.length ? this.draw() : this.go(this.next(0)))
        this.on(this.find('edit'), 'keydown', event => {
            if (event.key === 'Escape') this.act('cancel')
            else if (event.key === 'Enter' && !event.isComposing && (event.ctrlKey || event.metaKey)) this.recaption(event)
        })
        this.on(this.find('edit'), 'submit', event => this.recaption(event))
        const picture = this.find('picture')
        this.on(picture, 'pointermove', ({clientX, clientY}) => {
            const {left, top} = picture.getBoundingClientRect(), {offsetHeight = 0} = picture.firstChild ?? {}
            const origin = `${clientX - left}px ${Math.min(clientY - top, offsetHeight)}px`
            picture.style.setProperty('--origin', origin) // the point below the pointer stays, and moving it moves the picture
        })
        this.on(picture, 'wheel', event => {
            event.preventDefault()
            this.zoom(this.scale * 2 ** (-event.deltaY / 300))
        })
        this.on(this.box, 'input', () => this.later('judge', REST, () => this.judge()))
        this.open()
    }

    async open() {
        this.wait('Opening…')
        try {
            const pair = new URLSearchParams(location.search).get('pair') ?? ''
            const {rows, first, entry, decided, status} = await (await this.ask('queue', {pair})).json()
            if (first !== null && !rows.includes(first)) rows.unshift(first) // a link to a pair that is not in the selection
            Object.assign(this, {rows, entry, at: new Map(rows.map((row, place) => [row, place]))})
            for (const [row, decision] of Object.entries(decided)) this.set(Number(row), decision)
            this.adopt()
            this.showChanges([], status)
            this.go(this.at.get(first) ?? this.next(0))
        } catch (error) {
            if (this.isStopped) return
            this.wait(`This queue cannot be opened: ${error.message}. Retrying…`)
            this.later('open', 2 * POLL, () => this.open())
        }
    }

    isHidden(row, except) {
        return this.only.checked && this.decisions.get(row) && !except?.has(row)
    }

    // The places to show after a place; "Undecided only" wraps around at the end.
    *places(from) {
        const count = this.rows.length, end = this.only.checked ? from + count : count
        for (let place = from; place < end; place += 1) if (!this.isHidden(this.rows[place % count])) yield place % count
    }

    next(from) {
        return this.places(from).next().value ?? this.rows.length
    }

    // Show the pair of a place; `grace`: milliseconds in which keys are still meant for the pair before.
    go(place, grace = 0) {
        Object.assign(this, {place, grace, editing: false, judging: null})
        this.draw()
    }

    step(by) {
        let place = this.place + by
        while (this.rows[place] !== undefined && this.isHidden(this.rows[place], this.visited)) place += by
        if (place < 0) this.sign('This is the first pair.')
        else this.go(Math.min(place, this.rows.length))
    }

    // The row on screen and some of those that follow.
    upcoming(count) {
        const places = new Set([this.place, ...this.places(this.place + 1).take(count)])
        return [...places].map(place => this.rows[place]).filter(row => row !== undefined)
    }

    showLoaded(row) {
        const {card} = this.loaded.get(row), unsent = this.pending.some(({rows = []}) => rows.includes(row))
        const isCurrent = !unsent && card.decision === (this.decisions.get(row) ?? null)
        if (isCurrent || !this.captions.get(row)?.length) this.captions.set(row, card.recaptioned)
        this.draw()
    }

    reload() {
        for (const row of this.loaded.keys()) this.forget(row)
        this.draw()
    }

    async suggest() {
        const row = this.upcoming(3).find(each => !this.suggestions.has(each))
        if (this.isStopped || this.searching || row === undefined) return
        this.searching = true
        const answer = await this.ask('suggestions', {row}).then(response => response.json()).catch(() => null)
        this.searching = false
        if (this.isStopped) return
        if (answer) this.suggestions.set(row, answer)
        if (row === this.shown?.row) this.drawSuggestions()
        this.later('rest', answer ? 0 : POLL, () => this.suggest())
    }

    showChanges(changed, status) {
        const [, decision] = changed.find(([row]) => row === this.shown?.row) ?? [], label = labelOf(decision) ?? 'undecided'
        if (decision !== undefined) {
            this.shown.news = `Just marked ${label[0].toUpperCase()}${label.slice(1)} in another tab.`
            this.sign(this.shown.news, 'late')
        }
        this.write({status: status ?? ''})
        this.drawState()
    }

    wait(reason, links = []) {
        Object.assign(this, {shown: null, choices: [], painted: Infinity})
        this.find('links').replaceChildren(...links.map(([label, href]) => make('a', label, {href})))
        delete this.find('pair').dataset.pair
        this.find('pair').hidden = true
        this.write({wait: this.failure ? `${reason} (${this.failure}; retrying)` : reason})
    }

    draw() {
        const row = this.rows[this.place], loaded = this.loaded.get(row)
        this.find('review').classList.toggle('ended', row === undefined)
        if (row === undefined) {
            this.name('')
            this.wait(this.only.checked ? `All ${inWords(this.rows.length)} pairs are decided.` : 'That was the last pair.', this.data.links)
        } else if (loaded && this.shown?.row !== row) this.fill(row, loaded)
        else if (this.shown?.row !== row) {
            if (!this.data.follows) this.name('') // a reload must not return to the pair that was just decided
            this.wait('Loading…')
        }
        this.drawState()
        this.loadAll(this.upcoming(AHEAD))
    }

    // Magnify the picture, in the resolution of its file.
    zoom(scale) {
        const image = this.find('picture').firstChild
        if (!image) return
        this.scale = Math.min(CLOSEST, Math.max(1, scale))
        image.style.scale = this.scale
        if (this.scale > 1 && image.src.startsWith('blob:')) image.src = this.addressOf(this.shown)
    }

    // Write the pair into the address, for reloads, the back button and links. Some browsers limit how often.
    name(pair) {
        const url = new URL(location), before = url.searchParams.get('pair') ?? ''
        if (location.pathname !== this.path || before === pair) return
        url.searchParams.delete('pair')
        if (pair) url.searchParams.set('pair', pair)
        tried(() => history.replaceState(history.state, '', url))
    }

    fill(row, {card, image, fault}) {
        const order = [...new Set([card.first, ...card.captions.keys()])].filter(number => number in card.captions)
        Object.assign(this, {shown: {row, card, order, focus: 0, news: ''}, painted: Infinity, drawn: ''})
        this.write({label: card.label, score: card.score, id: `id: ${card.pair_id}`, wait: ''})
        this.write({fault: fault && `Picture cannot be read: ${fault}`})
        this.name(card.pair_id)
        this.find('picture').replaceChildren(image)
        this.zoom(1)
        this.find('review').classList.toggle('several', order.length > 1)
        this.find('texts').scrollTop = 0
        this.find('pair').hidden = false
        this.find('pair').dataset.pair = card.pair_id
        requestAnimationFrame(() => setTimeout(() => {
            if (this.shown?.row === row) this.painted = performance.now() + this.grace
        }))
        this.later('rest', REST, () => this.suggest())
        if (!this.data.follows) return
        tried(() => sessionStorage.setItem(OPENED, card.pair_id))
        // The page shows its scores; another page must not get its address
        this.later('follow', REST, () => location.pathname === this.path && this.trigger({pair: card.pair_id}))
    }

    drawState() {
        const {rows, place, shown, data: {title}} = this, {waiting, trouble} = outbox, row = rows[place]
        const position = (row === undefined ? '' : `${inWords(place + 1)} of `) + inWords(rows.length)
        const decidedCount = [...this.decisions].filter(([each, decision]) => decision && this.at.has(each)).length
        const sent = waiting.length ? `${inWords(waiting.length)} being sent` : 'saved'
        const decision = this.decisions.get(row), note = shown && this.loaded.get(row)?.card.note
        const queue = rows.length ? `${position}${title && `, ${title.toLowerCase()}`}` : ''
        this.write({place: queue, stored: `${inWords(decidedCount)} decided, ${this.trouble || sent}`})
        this.write({badge: labelOf(decision) ?? 'undecided', note: note ? `note: ${note}` : ''})
        this.find('stored').classList.toggle('trouble', Boolean(trouble))
        this.find('badge').className = `badge ${decision ?? ''}`
        if (shown) this.drawCaptions()
        this.find('edit').hidden = !this.editing
        this.find('captions').hidden = this.editing
        if (!this.editing) this.box.blur() // a hidden box has the focus, and gets the next key, until the next frame
    }

    // The place of a caption of the data set in the current captions, −1 if it was changed or removed.
    placeOf(number) {
        const {shown: {card: {captions}}, currentCaptions} = this
        return currentCaptions.length === captions.length ? number : currentCaptions.indexOf(captions[number])
    }

    // The caption in focus; after: its current text, if any, and place: that in the current captions.
    get focused() {
        const {card: {captions}, order, focus} = this.shown, number = order[focus], place = this.placeOf(number)
        return {number, text: captions[number], after: this.currentCaptions[place], place}
    }

    // Draw each caption once: a removed or changed one is struck through, and followed by its new text.
    drawCaptions() {
        const {shown: {row, card: {captions, words}, order}, currentCaptions} = this
        const state = JSON.stringify([row, currentCaptions, this.swap]), inPlace = currentCaptions.length === captions.length
        if (this.drawn === state) return
        this.drawn = state
        const lines = order.map(number => {
            const before = captions[number], after = inPlace ? currentCaptions[number] : ''
            return before === after || currentCaptions.includes(before) ? marked(before, words[number])
                : [make('s', before), foreign('p', after)]
        })
        const added = inPlace ? [] : currentCaptions.filter(text => !captions.includes(text)).map(text => [foreign('p', text)])
        this.find('captions').replaceChildren(...[...lines, ...added].map(parts => make('li', make('div.line', {dir: 'auto'}, ...parts))))
        this.drawSuggestions()
    }

    // The pair whose captions fit the picture on screen, while its suggestion can be accepted.
    get swap() {
        const {row} = this.shown, swap = this.suggestions.get(row)?.swap, other = this.decisions.get(swap?.row)
        return !this.expected(row).length && (swap?.mutual ? !other : other !== 'keep') && swap
    }

    focusOn(place) {
        const {length} = this.shown.order
        this.shown.focus = (place + length) % length
        this.judging = null
        this.drawSuggestions()
    }

    // Draw suggestions: captions of another pair for all of this one; for the caption in focus likelier words in place of
    // surprising ones, and captions that fit better.
    drawSuggestions() {
        const {row, card, focus, doubt} = this.shown, answer = this.suggestions.get(row), {number, text, after} = this.focused
        const fit = answer?.cosines?.[number] ?? -Infinity, lines = [...this.find('captions').children]
        lines[focus]?.append(this.suggested)
        const surprising = (card.words[number] ?? []).filter(({rank, better}) => text === after && rank <= WORDS && better.length)
        const words = surprising.map(({start, end, word, better: [[other, value]]}) => ({value,
            caption: Array.from(text).toSpliced(start, end - start, other).join(''),
            label: make('span', make('bdi', word), ' → ', make('bdi', other))}))
        const {swap} = this, swaps = swap ? [{swap, value: '', label: make('span',
            make('img', {src: this.addressOf(swap, 'small'), alt: altOf(swap.captions)}),
            make('b', 'Captions of ', make('bdi', swap.pair_id), ` fit this picture (${swap.probability})${swap.mutual ? ', and vice versa' : ''}`),
            foreign('span', swap.captions[0]))}] : []
        const captions = (answer?.choices ?? []).filter(({cosine, caption}) => caption !== after && cosine > fit)
            .map(({caption}) => ({value: '', caption, label: foreign('span', caption)}))
        this.choices = [...swaps, ...words, ...captions].slice(0, 3)
        const reason = text === after ? card.reasons[number] : after === doubt?.caption && doubt?.reason
        const hasSentence = withoutSentence(after, text, card.words[number]) !== null
        this.find('review').classList.toggle('sentences', hasSentence)
        this.write({part: hasSentence ? 'sentence' : 'caption'})
        this.write({heading: this.choices.length ? 'Suggestion' : '', reason: reason || ''})
        this.find('heading').title = captions.length ? answer.quality : ''
        lines.forEach((line, place) => line.classList.toggle('focus', place === focus))
        this.find('choices').replaceChildren(...this.choices.map(({label, value}, place) =>
            make('li', button(event => this.act(place + 1, event), make('kbd', place + 1), label, make('i', value)))))
    }

    click(event) {
        if (event.target.closest('button')) return
        const line = event.target.closest('.captions > li'), place = [...this.find('captions').children].indexOf(line)
        if (line && place < this.shown.order.length) this.focusOn(place)
        else if (event.target.closest('.picture img')) this.act('zoom')
    }

    // React to a key and return whether it is one of this page's. Up and down scroll the page of a pair with one caption.
    pressed(key, event) {
        const moves = {arrowup: -1, arrowdown: 1}[key], several = this.shown?.order.length > 1
        const name = '123'.includes(key) ? Number(key) : this.actOf(key, event)
        if (event.ctrlKey || event.metaKey || !(moves ? several : name)) return false
        if (moves) this.focusOn(this.shown.focus + moves)
        else if (!event.repeat || key.startsWith('arrow')) this.act(name, event)
        return true
    }

    act(name, event) {
        if (this.judging && name > 0) return this.sign('Ignored: the new caption is being judged.', 'late')
        this.judging = null // the pair does not go by itself from a person who does something else
        if (name === 'keep' || name === 'remove') this.decideShown(name, event)
        else if (name === 'drop') this.drop(event)
        else if (name === 'undo') this.undo()
        else if (name in STEPS) this.step(STEPS[name])
        else if (name === 'edit') this.edit(event)
        else if (name === 'zoom') this.zoom(this.scale > 1 ? 1 : ZOOM)
        else if (name === 'cancel') this.editing = false
        else {
            const {caption, swap} = this.choices[name - 1] ?? {}
            if (swap?.mutual) this.decideShown('swap', event, undefined, 'captions swapped', false, swap)
            else if (swap) this.decideShown('recaption', event, swap.captions)
            else this.use(event, caption)
        }
        this.drawState()
    }

    // Whether a key or click came after the pair on screen was painted, so that it refers to this pair.
    accepts(event) {
        const accepted = this.shown !== null && event.timeStamp >= this.painted
        const ended = this.rows[this.place] === undefined
        if (!accepted) this.sign(ended ? 'There is no pair to decide on.' : 'Ignored: the pair was not on screen yet.', 'late')
        return accepted
    }

    // Decide on the pair on screen, and in a swap on another one, and show the next one unless this one stays.
    decideShown(kind, event, captions, label = labelOf(kind), stays = false, swap = null) {
        if (!this.accepts(event)) return false
        const {row, card, news} = this.shown
        this.shown.news = ''
        if (news) return this.sign(`${news} Press again to replace it.`, 'late')
        const cards = swap ? [{...card, after: swap.captions}, {...swap, after: card.captions}] : [card]
        this.decide(cards, kind, {captions, expected: this.expected(row)})
        this.visited.add(row)
        this.sign(`${label} ✓`, kind)
        this.go(stays ? this.place : this.next(this.place + 1))
        return true
    }

    // Use a suggestion. The pair stays on screen until the server answers, and for good if the caption may still be wrong.
    async use(event, caption) {
        const before = this.currentCaptions[this.focused.place] ?? ''
        if (!this.change(event, [caption], undefined, true)) return
        const {shown} = this, doubt = this.judging = shown.doubt = {caption, reason: 'Changed; being judged…'}
        this.drawSuggestions()
        const answer = await this.ask('judge', {row: shown.row, caption, before}).then(response => response.json()).catch(() => null)
        if (this.isStopped || this.shown !== shown) return
        const {right = Boolean(answer), wrong} = answer ?? {} // an audit that cannot judge answers without both
        doubt.reason = right ? '' : `Changed; ${wrong ? `it may still be wrong (${wrong})` : 'not judged'}.`
        this.drawSuggestions()
        if (this.judging !== doubt) return
        this.judging = null
        if (right) this.go(this.next(this.place + 1), REST)
        else this.sign(doubt.reason, 'late')
    }

    undone(rows) {
        for (const row of rows) this.visited.add(row)
        this.go(this.at.get(rows[0]) ?? this.place)
    }

    // The current captions of the pair on screen.
    get currentCaptions() {
        const {row, card} = this.shown, changed = this.captions.get(row) ?? []
        return changed.length ? changed : card.captions
    }

    // Replace the caption in focus by others: by none to remove it, and the pair if it has no other caption.
    change(event, texts, label, stays) {
        if (!this.accepts(event)) return false
        const {focused: {place}, currentCaptions} = this, captions = currentCaptions.toSpliced(place, 1, ...texts)
        if (texts.includes(undefined)) this.sign('There is no such suggestion.', 'late')
        else if (place < 0) this.sign('This caption was changed or removed before.', 'late')
        else if (captions.length) return this.decideShown('recaption', event, captions, label, stays)
        else return this.decideShown('remove', event)
    }

    // Remove the marked sentence of the caption in focus, else the caption. The pair stays if another sentence is marked.
    drop(event) {
        if (!this.accepts(event)) return
        const {number, text, after} = this.focused, marks = this.shown.card.words[number]
        const rest = withoutSentence(after, text, marks), more = rest && withoutSentence(rest, text, marks) !== null
        this.change(event, rest ? [rest] : [], `${rest ? 'sentence' : 'caption'} removed`, more)
    }

    // Edit the captions, one a line; the caret is after the caption in focus, or after its first marked sentence.
    edit(event) {
        if (!this.accepts(event)) return
        const {currentCaptions, focused: {number, text, after, place}} = this
        this.box.value = this.unchanged = asLines(currentCaptions)
        this.editing = true
        this.drawState()
        const end = text === after && this.shown.card.words[number]?.find(({sentence}) => sentence >= 0)?.end
        const behind = end ? Array.from(text).slice(end).join('').length : 0
        this.box.selectionEnd = asLines(currentCaptions.slice(0, place + 1)).length - behind
        this.box.focus()
        this.judge()
    }

    // Show how likely the line with the caret is wrong, and the caption that it replaces. The last request counts.
    async judge() {
        if (!this.editing) return // saved meanwhile
        const {value, selectionStart} = this.box, line = value.slice(0, selectionStart).split('\n').length - 1
        const [caption, before] = [value, this.unchanged].map(text => text.split('\n')[line] ?? '')
        const answer = await this.ask('judge', {row: this.shown?.row, caption, before}).catch(() => null)
        const {text = ''} = await answer?.json() ?? {}
        if (this.box.value === value) this.write({judged: text})
    }

    recaption(event) {
        event.preventDefault()
        const captions = this.box.value.split('\n').map(line => line.trim()).filter(Boolean)
        if (!captions.length) this.sign('Not saved: write at least one caption.', 'late')
        else if (captions.join('\n') === this.unchanged) this.sign('Not saved: nothing was changed.', 'late')
        else this.decideShown('recaption', event, captions)
    }
}
